from typing import Any

import pytest

from meshsat.errors import InvalidInputError
from meshsat.runtime.formats import parse_yaml_untrusted
from meshsat.runtime.plans import Mirror, Origin
from meshsat.runtime.rancher import planner
from tests.unit.runtime.trees import MIRROR, NODE, REFUSED, DictView, view_of

K3S = "/etc/rancher/k3s/registries.yaml"


def planned(
    files: dict[str, str | bytes] | str, mirror: Mirror = MIRROR, product: str = "k3s"
) -> dict[str, Any]:
    view = view_of(files) if isinstance(files, str) else DictView(files)
    path = f"/etc/rancher/{product}/registries.yaml"
    (data,) = planner(product)(view, mirror).files.values()
    return parse_yaml_untrusted(path, data)


def endpoints(found: dict[str, Any]) -> dict[str, list[str]]:
    return {host: entry["endpoint"] for host, entry in found["mirrors"].items()}


def test_without_a_file_all_registries_go_to_the_node() -> None:
    assert planned({}) == {"mirrors": {"*": {"endpoint": [NODE]}}}
    assert planned({}, product="rke2") == {"mirrors": {"*": {"endpoint": [NODE]}}}


def test_entries_keep_their_endpoints_behind_the_node() -> None:
    found = planned("k3s-by-hand")
    assert endpoints(found) == {
        "*": [NODE, "https://10.1.2.3:5001"],
        "ghcr.io": [NODE, "https://ghcr-proxy.example.com"],
        "quay.io": ["https://quay-a.example.com", "https://quay-b.example.com"],  # it has rewrites
        "registry.k8s.io": [NODE, "https://k8s.example.com"],
        "10.1.2.3:5001": [NODE],
        "harbor.example.com": [NODE],
    }
    assert any("rewrites" in note for note in planner("k3s")(view_of("k3s-by-hand"), MIRROR).notes)


def test_a_host_with_credentials_has_an_entry_since_the_wildcard_is_not_for_it() -> None:
    assert endpoints(planned("rke2-configs-only", product="rke2")) == {
        "*": [NODE],
        "harbor.example.com": [NODE],
    }


def test_empty_entries_are_filled_and_the_missing_last_resort_is_told_of() -> None:
    assert endpoints(planned("k3s-embedded")) == {h: [NODE] for h in ("*", "docker.io", "registry.k8s.io")}
    notes = planner("k3s")(view_of("k3s-embedded"), MIRROR).notes
    assert any("disable-default-registry-endpoint" in note for note in notes)


def test_a_registry_that_is_named_keeps_what_the_wildcard_gave_it() -> None:
    named = Mirror(NODE, (Origin("quay.io"), Origin("lab.lan:5000", True)), every=False)
    text = "mirrors:\n  '*':\n    endpoint: [https://cache]\n"
    assert endpoints(planned({K3S: text}, named)) == {
        "*": ["https://cache"],
        "quay.io": [NODE, "https://cache"],
        "lab.lan:5000": [NODE, "https://cache", "http://lab.lan:5000"],
    }


def test_a_node_that_is_there_is_not_added_again() -> None:
    text = f"mirrors:\n  '*':\n    endpoint: [{NODE}/]\n  a:\n    endpoint: [http://b, '{NODE}']\n"
    made = planner("k3s")(DictView({K3S: text}), MIRROR)
    assert made.files[K3S] == text.encode()
    assert any("not first" in note for note in made.notes)


def test_the_authority_of_an_https_node_is_named() -> None:
    found = planned({}, Mirror("https://n:5443", ca_file="/ca.pem"))
    assert found["configs"] == {"n:5443": {"tls": {"ca_file": "/ca.pem"}}}


def test_what_cannot_be_changed_safely_is_refused() -> None:
    data = (REFUSED / "k3s-anchor/etc/rancher/k3s/registries.yaml").read_bytes()
    with pytest.raises(InvalidInputError, match="yourself"):
        planner("k3s")(DictView({K3S: data}), MIRROR)
    for text in ("mirrors: x\n", "mirrors:\n  a: x\n", "mirrors:\n  a:\n    endpoint: x\n"):
        with pytest.raises(InvalidInputError):
            planner("k3s")(DictView({K3S: text}), MIRROR)
