import json
from typing import Any

import pytest

from meshsat.errors import InvalidInputError
from meshsat.fleet.harbor_satellite.shapes import (
    ANSWER_LIMIT,
    FAULTS_LIMIT,
    GROUPS_LIMIT,
    JSON_LIMIT,
    Artifact,
    Place,
    SatelliteSettings,
    parse_config_untrusted,
    parse_group_state_untrusted,
    parse_place_untrusted,
    parse_refresh_untrusted,
    parse_registration_untrusted,
    parse_registry_address_untrusted,
    parse_report_answer_untrusted,
    parse_satellite_state_untrusted,
    parse_token_untrusted,
)
from meshsat.oci.digest import Digest

DIGEST = Digest.of(b"image")


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_a_root_as_ground_control_writes_it() -> None:
    state = parse_satellite_state_untrusted(
        raw(
            {
                "states": [
                    "https://harbor.example/satellite/group-state/g1/state:latest",
                    "https://harbor.example/satellite/group-state/g2/state:latest",
                ],
                "config": "https://harbor.example/satellite/config-state/default/state:latest",
            }
        )
    )
    assert state.groups == tuple(
        Place("harbor.example", f"satellite/group-state/{name}/state", "latest") for name in ("g1", "g2")
    )
    assert state.config == Place("harbor.example", "satellite/config-state/default/state", "latest")
    assert state.faults == ()


def test_a_root_without_groups_wants_nothing_and_one_without_anything_is_none() -> None:
    assert parse_satellite_state_untrusted(raw({"config": "https://h.example/c:latest"})).groups == ()
    assert parse_satellite_state_untrusted(raw({"states": None, "config": ""})).groups == ()
    for broken in (b"", b"{}", b"[]", b'{"states": {}}', b'{"states": [', b'{"artifacts": []}'):
        with pytest.raises(InvalidInputError, match="satellite state"):
            parse_satellite_state_untrusted(broken)


def test_a_group_in_a_root_that_makes_no_sense_takes_no_other_with_it() -> None:
    state = parse_satellite_state_untrusted(raw({"states": ["ftp://h.example/g:latest", 7, "h.example/g"]}))
    assert state.groups == (Place("h.example", "g", "latest"),)
    assert len(state.faults) == 2
    with pytest.raises(InvalidInputError, match="groups"):
        parse_satellite_state_untrusted(raw({"states": ["h.example/g"] * (GROUPS_LIMIT + 1)}))


def test_a_group_as_ground_control_writes_it() -> None:
    told = {
        "group": "g1",
        "registry": "https://harbor.example",
        "artifacts": [
            {
                "repository": "library/nginx",
                "tag": ["alpine", "1"],
                "labels": None,
                "type": "IMAGE",
                "digest": str(DIGEST),
                "deleted": False,
            },
            {"repository": "team/deep/app", "digest": str(DIGEST), "deleted": True, "tag": ["old"]},
            {"repository": "team/untagged", "digest": str(DIGEST), "labels": ["x"], "surprise": {}},
            {"repository": "team/followed", "tag": ["latest"], "digest": ""},
        ],
    }
    assert parse_group_state_untrusted(raw(told)).artifacts == (
        Artifact("library/nginx", ("alpine", "1"), DIGEST),
        Artifact("team/deep/app", ("old",), DIGEST, deleted=True),
        Artifact("team/untagged", (), DIGEST),
        Artifact("team/followed", ("latest",), None),
    )


def test_an_empty_group_is_one_and_what_is_no_group_is_none() -> None:
    assert parse_group_state_untrusted(raw({"group": "g1", "registry": "https://h"})).artifacts == ()
    for broken in (
        b"{}",
        b"null",
        b'{"artifacts": 7}',
        b'{"states": []}',
        b'{"group": "g", "group": "h"}',
        b"{" * 99,
    ):
        with pytest.raises(InvalidInputError, match="group state"):
            parse_group_state_untrusted(broken)
    with pytest.raises(InvalidInputError, match="bytes"):
        parse_group_state_untrusted(b" " * (JSON_LIMIT + 1))


@pytest.mark.parametrize(
    "entry",
    [
        7,
        {},
        {"repository": "Upper/Case", "tag": ["1"]},
        {"repository": "../../etc", "tag": ["1"]},
        {"repository": "a/b", "tag": "1"},
        {"repository": "a/b", "tag": [None]},
        {"repository": "a/b", "tag": ["1"] * 2000},
        {"repository": "a/b", "tag": ["1"], "digest": "sha256:short"},
        {"repository": "a/b", "tag": ["1"], "deleted": "no"},
        {"repository": "a/b"},
    ],
)
def test_an_artifact_that_makes_no_sense_is_told_and_takes_no_other_with_it(entry: Any) -> None:
    good = {"repository": "a/c", "tag": ["1"], "digest": str(DIGEST)}
    state = parse_group_state_untrusted(raw({"group": "g", "artifacts": [entry, good]}))
    assert [one.repository for one in state.artifacts] == ["a/c"]
    assert "artifact 1 is passed over" in state.faults[0]


def test_faults_are_bounded() -> None:
    state = parse_group_state_untrusted(raw({"artifacts": [{}] * 500}))
    assert len(state.faults) == FAULTS_LIMIT


def test_a_configuration_gives_its_intervals_and_names_what_else_is_set_without_its_values() -> None:
    settings = parse_config_untrusted(
        raw(
            {
                "state_config": {"auth": {"password": "hunter2"}},
                "app_config": {
                    "state_replication_interval": "@every 00h01m30s",
                    "heartbeat_interval": "@every 1m",
                    "local_registry": {"url": "http://127.0.0.1:8585", "password": "hunter2"},
                    "use_unsecure": False,
                    "bring_own_registry": True,
                },
                "zot_config": {"http": {}},
            }
        )
    )
    assert (settings.poll, settings.report) == (90.0, 60.0)
    assert settings.passed_over == (
        "app_config.bring_own_registry",
        "app_config.local_registry",
        "zot_config",
    )
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    "text", ["0 2 * * *", "@every ", "@every 1", "@every 0s", "@every 99999h", "@every 1h x", 30, None]
)
def test_an_interval_that_harbor_satellite_does_not_run_is_none_here(text: Any) -> None:
    settings = parse_config_untrusted(raw({"app_config": {"state_replication_interval": text}}))
    assert settings == SatelliteSettings(
        None, None, ("app_config.state_replication_interval",) if text else ()
    )


def test_a_registration_and_what_is_none() -> None:
    auth = {"url": "https://harbor.example", "username": "robot$till-7", "password": "hunter2"}
    told = {"auth": auth, "state": "https://harbor.example/satellite/satellite-state/till-7/state:latest"}
    registration = parse_registration_untrusted(raw(told))
    assert (registration.registry, registration.username, registration.secret) == (
        "harbor.example",
        "robot$till-7",
        "hunter2",
    )
    assert registration.place.satellite == "till-7"
    assert "hunter2" not in repr(registration)
    for broken in (
        {**told, "state": "placeholder://spiffe-testing/till-7"},
        {**told, "auth": {**auth, "password": ""}},
        {**told, "auth": {**auth, "username": "a:b"}},
        {**told, "auth": {**auth, "password": "a\nb"}},
        {**told, "auth": None},
        {"message": "no", "password": "hunter2"},
    ):
        with pytest.raises(InvalidInputError) as fault:
            parse_registration_untrusted(raw(broken))
        assert "hunter2" not in str(fault.value)
    with pytest.raises(InvalidInputError):
        parse_registration_untrusted(b" " * (ANSWER_LIMIT + 1))


def test_other_answers_and_tokens() -> None:
    assert parse_refresh_untrusted(b'{"secret": "new"}') == "new"
    with pytest.raises(InvalidInputError):
        parse_refresh_untrusted(b'{"secret": ""}')
    assert parse_report_answer_untrusted(b"") == frozenset()
    assert parse_report_answer_untrusted(b'{"events": ["refresh_credentials", 7]}') == {"refresh_credentials"}
    assert parse_report_answer_untrusted(b'{"actions": ["refresh_credentials"]}') == {"refresh_credentials"}
    assert parse_token_untrusted(b"0123456789abcdef\n") == "0123456789abcdef"
    for broken in (b"", b"short", b"with a space", b"\xff" * 20, b"x" * 600):
        with pytest.raises(InvalidInputError):
            parse_token_untrusted(broken)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("https://harbor.example/a/b:1", Place("harbor.example", "a/b", "1")),
        ("http://harbor.example:8080/a/b", Place("harbor.example:8080", "a/b", "latest")),
        ("harbor.example/a:2", Place("harbor.example", "a", "2")),
        ("https://harbor/a/b:1", Place("harbor:443", "a/b", "1")),
        ("http://harbor/a/b:1", Place("harbor:80", "a/b", "1")),
        ("https://[fd00::1]:8443/a/b:1", Place("[fd00::1]:8443", "a/b", "1")),
    ],
)
def test_a_place_and_its_registry(text: str, place: Place) -> None:
    assert parse_place_untrusted(text) == place
    assert parse_place_untrusted(str(place)) == place
    assert parse_registry_address_untrusted(text) == place.registry


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://",
        "https://h.example",
        "https://u:p@h.example/a:1",
        "file:///etc/passwd",
        "h.example/a@b",
        7,
        "site.internal/a:1",
        "https://h.example/../a:1",
        "x" * 2000,
    ],
)
def test_what_is_no_place(text: Any) -> None:
    with pytest.raises(InvalidInputError):
        parse_place_untrusted(text)
