import tomllib
from typing import Any

import pytest

from meshsat.errors import InvalidInputError
from meshsat.runtime.containerd import FILE, HOSTS, plan
from meshsat.runtime.plans import Mirror, Origin
from tests.unit.runtime.trees import MIRROR, NODE, DictView, view_of

V2 = 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\n'
EVERY = f"{HOSTS}/_default/hosts.toml"


def planned(files: dict[str, str | bytes] | str, mirror: Mirror = MIRROR) -> dict[str, Any]:
    view = view_of(files) if isinstance(files, str) else DictView(files)
    return {path: tomllib.loads(data.decode()) for path, data in plan(view, mirror).files.items()}


def registry(tables: dict[str, Any], plugin: str = "io.containerd.grpc.v1.cri") -> dict[str, Any]:
    found: dict[str, Any] = tables["plugins"][plugin]["registry"]
    return found


def test_without_a_configuration_one_is_made_that_both_majors_read() -> None:
    files = planned({})
    assert files[FILE]["version"] == 2
    assert registry(files[FILE])["config_path"] == HOSTS
    assert list(files) == [EVERY, FILE]  # what config.toml points to is there before it


@pytest.mark.parametrize(
    ("case", "path", "plugin"),
    [
        ("containerd-debian", FILE, "io.containerd.grpc.v1.cri"),
        ("containerd-default-dump", FILE, "io.containerd.grpc.v1.cri"),
        ("containerd-version1", FILE, "cri"),
        ("containerd-version3", FILE, "io.containerd.cri.v1.images"),
        ("containerd-inline-table", FILE, "io.containerd.grpc.v1.cri"),
        ("containerd-imports", "/etc/containerd/conf.d/20-cri.toml", "io.containerd.grpc.v1.cri"),
    ],
)
def test_config_path_goes_to_the_plugin_of_the_files_version(case: str, path: str, plugin: str) -> None:
    files = planned(case)
    assert registry(files[path], plugin)["config_path"] == HOSTS
    assert set(files) == {path, EVERY}


@pytest.mark.parametrize("case", ["containerd-aks", "containerd-eks", "containerd-crlf"])
def test_a_config_path_that_is_there_is_used_and_nothing_restarted_for_it(case: str) -> None:
    assert FILE not in planned(case)


def test_hosts_that_are_there_get_the_node_first() -> None:
    files = planned("containerd-crlf")
    assert set(files) == {
        f"{HOSTS}/{name}/hosts.toml" for name in ("docker.io", "cache.lan_5000_", "_default")
    }
    assert list(files[f"{HOSTS}/docker.io/hosts.toml"]["host"]) == [NODE, "https://cache.lan:5000"]
    certificates = files[f"{HOSTS}/cache.lan_5000_/hosts.toml"]
    assert certificates["server"] == "https://cache.lan:5000"
    assert (certificates["ca"], certificates["client"]) == (["rack.crt"], [["client.cert", "client.key"]])


def test_the_file_for_all_hides_no_registry_of_a_later_directory() -> None:
    files = planned("containerd-eks")
    assert "/etc/docker/certs.d/_default/hosts.toml" in files
    assert "/etc/docker/certs.d/registry.corp.example:8443/hosts.toml" in files
    first = planned({FILE: V2 + '  config_path = "/a:/b"\n', "/a/x/hosts.toml": ""})
    assert set(first) == {"/a/x/hosts.toml", "/a/_default/hosts.toml"}


def test_inline_mirrors_are_moved_and_stay_as_comments() -> None:
    view = view_of("containerd-by-hand")
    made = plan(view, MIRROR)
    config = tomllib.loads(made.files[FILE].decode())
    assert "mirrors" not in registry(config)
    assert registry(config)["configs"]["harbor.example.com"] == {
        "auth": {"username": "robot$edge", "password": "not-a-secret"}
    }
    assert b'# endpoint = ["http://10.0.0.9:8082"]' in made.files[FILE]
    every = tomllib.loads(made.files[EVERY].decode())
    assert list(every["host"]) == [NODE, "http://10.0.0.9:8082"]
    harbor = tomllib.loads(made.files[f"{HOSTS}/harbor.example.com/hosts.toml"].decode())
    assert harbor["server"] == "https://harbor.example.com"
    assert harbor["ca"] == ["/etc/ssl/harbor.pem"]
    assert list(harbor["host"]) == [
        NODE,
        "https://harbor.example.com",
        "https://harbor-b.example.com/v2/proxy",
    ]
    assert harbor["host"]["https://harbor-b.example.com/v2/proxy"]["override_path"] is True
    assert any("moved to hosts.toml" in note for note in made.notes)


def test_an_origin_that_comes_last_anyhow_is_not_named_twice() -> None:
    files = planned("containerd-gke-inline")
    hub = files[f"{HOSTS}/docker.io/hosts.toml"]
    assert (list(hub["host"]), hub["server"]) == (
        [NODE, "https://mirror.gcr.io"],
        "https://registry-1.docker.io",
    )


def test_only_the_registries_that_are_named() -> None:
    mirror = Mirror(NODE, (Origin("quay.io"), Origin("lab.lan:5000", True)), every=False)
    files = planned("containerd-crlf", mirror)
    assert set(files) == {f"{HOSTS}/quay.io/hosts.toml", f"{HOSTS}/lab.lan:5000/hosts.toml"}
    assert files[f"{HOSTS}/lab.lan:5000/hosts.toml"]["server"] == "http://lab.lan:5000"


def test_a_registry_that_leaves_the_file_for_all_takes_its_hosts_along() -> None:
    there = {FILE: V2 + f'config_path = "{HOSTS}"\n', EVERY: '[host."https://cache"]\n'}
    files = planned(dict(there), Mirror(NODE, (Origin("quay.io"),), every=False))
    assert set(files) == {f"{HOSTS}/quay.io/hosts.toml"}
    assert list(files[f"{HOSTS}/quay.io/hosts.toml"]["host"]) == [NODE, "https://cache"]


def test_a_registry_without_tls_is_named_even_among_all() -> None:
    files = planned({}, Mirror(NODE, (Origin("quay.io"), Origin("lab.lan:5000", True))))
    assert set(files) == {EVERY, f"{HOSTS}/lab.lan:5000/hosts.toml", FILE}


def test_where_cri_is_off_config_toml_is_left_alone() -> None:
    made = plan(view_of("containerd-docker-package"), MIRROR)
    assert set(made.files) == {EVERY}
    assert any("disables cri" in note for note in made.notes)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("version = 4\n", "version 4"),
        ("version = [2]\n", "version"),
        (V2 + 'config_path = "relative"\n', "absolute"),
        (V2 + "config_path = 3\n", "absolute"),
        (V2 + 'mirrors = "x"\n', "mirrors must be a table"),
        (
            V2 + '[plugins."io.containerd.grpc.v1.cri".registry.mirrors."a"]\nendpoint = "x"\n',
            "list of texts",
        ),
        ('version = 2\nplugins = "x"\n', "plugins must be a table"),
        ("version = 2\nimports = 3\n", "imports must be a list"),
    ],
)
def test_what_cannot_be_understood_is_refused(config: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        plan(DictView({FILE: config}), MIRROR)
