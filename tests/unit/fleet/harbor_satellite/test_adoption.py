import json
from typing import Any

import pytest

from meshsat.errors import InvalidInputError
from meshsat.fleet.harbor_satellite.adoption import parse_adoption_untrusted

STATE = "https://harbor.example/satellite/satellite-state/till-7/state:latest"
CONFIG: dict[str, Any] = {
    "state_config": {
        "auth": {"url": "https://harbor.example", "username": "robot$till-7", "password": "hunter2"},
        "state": STATE,
    },
    "app_config": {
        "ground_control_url": "https://gc.example",
        "log_level": "info",
        "state_replication_interval": "@every 00h00m30s",
        "heartbeat_interval": "@every 00h00m30s",
        "bring_own_registry": False,
        "registry_fallback": {"enabled": True, "registries": ["docker.io"], "runtimes": ["containerd"]},
        "tls": {"ca_file": "/etc/ca.pem", "skip_verify": True},
        "new_thing": 1,
    },
    "zot_config": {"http": {"port": "8585"}},
}


def test_what_is_taken_over_and_what_is_left() -> None:
    state = {"groups": [{"url": "x", "entities": [{"name": "pos"}, {"name": "app"}]}, {"entities": None}]}
    found = parse_adoption_untrusted(json.dumps(CONFIG).encode(), json.dumps(state).encode())
    assert (found.host, found.registry, found.harbor_plain_http) == ("harbor.example", None, False)
    assert (found.ground_control, found.ca_file, found.images) == ("https://gc.example", "/etc/ca.pem", 2)
    assert found.registration.secret == "hunter2"
    left = dict(one.split(": ", 1) for one in found.left)
    assert set(left) == {
        "app_config.log_level",
        "app_config.registry_fallback",
        "app_config.new_thing",
        "app_config.tls.skip_verify",
        "zot_config",
    }
    assert left["app_config.new_thing"] == "no counterpart"
    assert "runtime install" in left["app_config.registry_fallback"]
    assert "hunter2" not in repr(found)


def test_an_override_of_harbors_address_comes_first() -> None:
    config = {**CONFIG, "app_config": {"harbor_registry_url": "http://10.0.0.1:8080"}}
    found = parse_adoption_untrusted(json.dumps(config).encode(), None)
    assert (found.host, found.harbor_plain_http) == ("10.0.0.1:8080", True)
    assert (found.ground_control, found.images) == (None, 0)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"version": 1, "salt": "aGVsbG8=", "data": "aGVsbG8="}, "encrypted"),
        ({"app_config": {}}, "no configuration"),
        ({"state_config": {"auth": {}, "state": ""}}, "is the satellite registered"),
        ({**CONFIG, "app_config": 7}, "no configuration"),
    ],
)
def test_what_cannot_be_adopted_is_told_why(config: Any, why: str) -> None:
    with pytest.raises(InvalidInputError, match=why):
        parse_adoption_untrusted(json.dumps(config).encode(), None)


def test_a_broken_state_is_told() -> None:
    with pytest.raises(InvalidInputError, match=r"state\.json"):
        parse_adoption_untrusted(json.dumps(CONFIG).encode(), b"{")
