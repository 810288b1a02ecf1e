import tomllib

import pytest

from meshsat.errors import InvalidInputError
from meshsat.runtime.hosts_toml import Fresh, Trust, docker_layout, ours, put_first, server_of
from meshsat.runtime.plans import Mirror
from tests.unit.runtime.trees import MIRROR, NODE

OURS = f'[host."{NODE}"]  # meshsat runtime install\n  capabilities = ["pull", "resolve"]\n'


@pytest.mark.parametrize(
    ("directory", "server"),
    [
        ("docker.io", "https://registry-1.docker.io"),
        ("quay.io", "https://quay.io"),
        ("a.b:5000", "https://a.b:5000"),
        ("a.b_5000_", "https://a.b:5000"),
        ("odd_name", "https://odd_name"),
        ("_default", None),
    ],
)
def test_the_server_that_a_directory_is_for(directory: str, server: str | None) -> None:
    assert server_of(directory) == server


def test_a_fresh_file_for_all_registries_names_no_server() -> None:
    found = tomllib.loads(Fresh().render(MIRROR).decode())
    assert found == {"host": {NODE: {"capabilities": ["pull", "resolve"]}}}


def test_a_fresh_file_with_all_there_is_to_say() -> None:
    trust = Trust(("ca.pem",), (("c.pem", "k.pem"),), skip_verify=True)
    fresh = Fresh(
        "https://r", trust, ["https://m.example", "http://m.example/v2/x"], {"m.example": Trust(("m.pem",))}
    )
    found = tomllib.loads(fresh.render(Mirror("https://n", ca_file="/n.pem")).decode())
    assert list(found["host"]) == ["https://n", "https://m.example", "http://m.example/v2/x"]
    assert found["host"]["https://n"]["ca"] == "/n.pem"
    assert found["host"]["https://m.example"]["ca"] == ["m.pem"]
    assert found["host"]["http://m.example/v2/x"] == {
        "capabilities": ["pull", "resolve"],
        "override_path": True,
    }
    assert (found["server"], found["skip_verify"], found["client"]) == (
        "https://r",
        True,
        [["c.pem", "k.pem"]],
    )


def test_the_node_comes_before_the_hosts_that_are_there() -> None:
    there = 'server = "https://r"\n\n# a cache\n[host."https://c"]\n  ca = "x"\n'
    changed, note = put_first("f", there.encode(), MIRROR)
    assert changed.decode() == f'server = "https://r"\n\n{OURS}\n# a cache\n[host."https://c"]\n  ca = "x"\n'
    assert note is None
    assert put_first("f", changed, MIRROR) == (changed, None)


def test_a_node_that_is_there_but_not_first_is_told_of() -> None:
    there = f'[host."https://c"]\n[host."{NODE}/"]\n'.encode()
    changed, note = put_first("f", there, MIRROR)
    assert changed == there
    assert note is not None
    assert "not first" in note


@pytest.mark.parametrize("there", ['host = {"https://c" = {}}\n', 'host."https://c".ca = "x"\n'])
def test_a_file_that_leaves_no_place_is_refused_with_advice(there: str) -> None:
    with pytest.raises(InvalidInputError):
        put_first("f", there.encode(), MIRROR)


def test_certificates_in_dockers_layout() -> None:
    names = ["a.crt", "b.cert", "b.key", "c.cert", "readme"]
    assert docker_layout(names) == Trust(("a.crt",), (("b.cert", "b.key"),))
    assert ours(MIRROR)[0].startswith(f'[host."{NODE}"]')
