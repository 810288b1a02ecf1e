import tomllib
from typing import Any

import pytest

from meshsat.errors import InvalidInputError
from meshsat.runtime.containers import DROP_IN, plan
from meshsat.runtime.plans import Mirror, Origin
from tests.unit.runtime.trees import MIRROR, NODE, DictView, view_of

MAIN = "/etc/containers/registries.conf"
HOST = NODE.partition("//")[2]


def planned(files: dict[str, str | bytes] | str, mirror: Mirror = MIRROR) -> dict[str, dict[str, Any]]:
    view = view_of(files) if isinstance(files, str) else DictView(files)
    found = tomllib.loads(plan(view, mirror).files[DROP_IN].decode())
    return {one["prefix"]: one for one in found.get("registry", [])}


def test_without_anything_docker_hub_goes_to_the_node() -> None:
    mirror = {"location": f"{HOST}/docker.io", "insecure": True}
    assert planned({}) == {"docker.io": {"prefix": "docker.io", "location": "docker.io", "mirror": [mirror]}}


def test_the_registries_that_files_and_the_node_know_of_are_named() -> None:
    known = Mirror(NODE, (Origin("harbor.example.com"),))
    assert set(planned("podman-fedora", known)) == {
        "registry.fedoraproject.org", "registry.access.redhat.com", "docker.io", "harbor.example.com",
    }  # fmt: skip
    assert set(planned("podman-fedora", Mirror(NODE, (Origin("quay.io"),), every=False))) == {"quay.io"}


def test_a_registry_with_a_port_is_spelt_without_a_colon_in_the_mirrors_path() -> None:
    found = planned({}, Mirror(NODE, (Origin("lab.lan:5000", True), Origin("cache:5000")), every=False))
    assert set(found) == {"lab.lan:5000"}  # a name without a dot could be a part of another registry's names
    lab = found["lab.lan:5000"]
    assert (lab["insecure"], lab["mirror"][0]["location"]) == (True, f"{HOST}/lab.lan_5000")
    notes = plan(DictView({}), Mirror(NODE, (Origin("cache:5000"),), every=False)).notes
    assert any("cache:5000 cannot be named" in note for note in notes)


def test_what_other_files_say_is_said_again_with_the_node_first() -> None:
    found = planned("podman-by-hand")
    hub = found["docker.io"]["mirror"]
    assert [one["location"] for one in hub] == [f"{HOST}/docker.io", "cache.lan:5000/hub"]
    library = found["docker.io/library"]
    assert library["location"] == "harbor.example.com/hub"
    assert library["mirror-by-digest-only"] is True
    assert library["mirror"] == [{"location": f"{HOST}/harbor.example.com/hub", "insecure": True}]
    assert found["lab.example.com:5000"]["insecure"] is True
    assert "quay.io/evil" not in found  # it is blocked, and stays so
    assert "quay.io" in found


def test_the_last_file_has_the_last_word_about_a_prefix() -> None:
    files: dict[str, str | bytes] = {
        MAIN: '[[registry]]\nlocation = "a.io"\ninsecure = true\n',
        f"{MAIN}.d/10-a.conf": '[[registry]]\nprefix = "a.io"\nlocation = "b.io/a"\n',
        f"{MAIN}.d/20-a.txt": "not read [",
    }
    found = planned(files)["a.io"]
    assert found["location"] == "b.io/a"
    assert "insecure" not in found


def test_the_oldest_form_of_the_file_is_understood() -> None:
    old = (
        '[registries.insecure]\nregistries = ["lab.lan:5000"]\n[registries.block]\nregistries = ["bad.io"]\n'
    )
    found = planned({MAIN: old})
    assert found["lab.lan:5000"]["insecure"] is True
    assert "bad.io" not in found


def test_our_own_drop_in_is_not_read() -> None:
    assert planned({DROP_IN: "whatever ["}) == planned({})


def test_a_later_file_would_override_ours() -> None:
    later = f"{MAIN}.d/zzz.conf"
    with pytest.raises(InvalidInputError, match="rename it"):
        plan(DictView({later: '[[registry]]\nlocation = "a.io"\n'}), MIRROR)
    mirror = f'[[registry]]\nlocation = "a.io"\n[[registry.mirror]]\nlocation = "{HOST}/a.io"\n'
    found = planned({MAIN: mirror})
    assert "a.io" not in found


def test_the_authority_of_an_https_node_goes_where_these_clients_look() -> None:
    view = DictView({"/ca.pem": "pem"})
    made = plan(view, Mirror("https://n:5443", ca_file="/ca.pem"))
    assert made.files["/etc/containers/certs.d/n:5443/meshsat.crt"] == b"pem"
    assert b"insecure" not in made.files[DROP_IN]
    with pytest.raises(InvalidInputError, match="does not exist"):
        plan(DictView({}), Mirror("https://n:5443", ca_file="/ca.pem"))


@pytest.mark.parametrize(
    "text",
    ["registry = 1\n", "[[registry]]\n", "[[registry]]\nprefix = 1\n", '[[registry]]\nlocation = "a.io"\nmirror = 1\n',
     '[[registry]]\nlocation = "a.io"\nx = 1\n', "unqualified-search-registries = 1\n"],
)  # fmt: skip
def test_what_cannot_be_understood_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"registries\.conf"):
        plan(DictView({MAIN: text}), MIRROR)
