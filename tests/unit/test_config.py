"""Settings: where they come from, which source wins, and what a wrong one is answered."""

from pathlib import Path
from typing import Any

import pytest

from meshsat.config import Config, is_loopback
from meshsat.errors import ConfigError
from meshsat.limits import Quota, WanLimits, Window


def test_the_defaults_need_nothing() -> None:
    config = Config.load()
    assert config.uplink.enabled
    assert config.registry.listen == "127.0.0.1"
    assert config.data_dir == Path("/var/lib/meshsat")


def test_flags_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "meshsat.toml"
    file.write_text('name = "file"\n[mesh]\nbulk_port = 1\ncontrol_port = 1\n[registry]\nport = 1\n')
    monkeypatch.setenv("MESHSAT_MESH__BULK_PORT", "2")
    monkeypatch.setenv("MESHSAT_REGISTRY__PORT", "2")
    config = Config.load(file, registry={"port": 3})
    assert (config.name, config.mesh.control_port) == ("file", 1)
    assert config.mesh.bulk_port == 2
    assert config.registry.port == 3


def test_registries_are_read_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "meshsat.toml"
    file.write_text('[[uplink.registries]]\nhost = "harbor.example:8443"\nca_file = "/etc/ca.pem"\n')
    (registry,) = Config.load(file).uplink.registries
    assert (registry.host, registry.ca_file, registry.plain_http) == (
        "harbor.example:8443",
        Path("/etc/ca.pem"),
        False,
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[registry]\npotr = 5000\n", "registry.potr"),
        ("[mesh]\nbulk_port = 70000\n", "mesh.bulk_port"),
        ('[uplink]\nrate = "fast"\n', "uplink.rate"),
        ("[uplink\n", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_told_by_its_name_and_file(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "meshsat.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as fault:
        Config.load(file)
    assert told in str(fault.value)
    assert str(file) in str(fault.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist; give another with --config"):
        Config.load(tmp_path / "none.toml")


TLS = {"tls": {"fleet": True}}
AUTH = {"auth": {"htpasswd": "users"}}


@pytest.mark.parametrize(
    "registry",
    [
        {"push": True, "delete": True},
        {"listen": "::1", "push": True},
        {"listen": "127.8.8.8"},
        {"listen": "localhost"},
        {"listen": "0.0.0.0", **TLS},
        {"listen": "0.0.0.0", "push": True, **TLS, **AUTH},
        {"listen": "::", "tls": {"certificate": "c", "key": "k"}},
        {**AUTH},
    ],
)
def test_where_the_registry_may_listen(registry: dict[str, Any]) -> None:
    Config.load(registry=registry)


@pytest.mark.parametrize(
    ("registry", "told"),
    [
        ({"listen": "0.0.0.0"}, r"registry: listen = '0.0.0.0' lets other machines in, .*; set registry.tls"),
        ({"listen": "::"}, "set registry.tls"),
        ({"listen": ""}, "set registry.tls"),
        ({"listen": "node.lan", **AUTH}, "set registry.tls"),
        ({"listen": "10.0.0.1", "push": True, **TLS}, "set registry.auth.htpasswd, or listen on 127.0.0.1"),
        ({"listen": "10.0.0.1", "delete": True, **TLS}, "set registry.auth.htpasswd"),
        ({"tls": {}}, "registry.tls: give both certificate and key, or fleet = true"),
        ({"tls": {"certificate": "c"}}, "give both certificate and key"),
        ({"tls": {"certificate": "c", "key": "k", "fleet": True}}, "give both certificate and key"),
        ({"tls": {"certificate": "c", "key": "k", "names": ["a"]}}, "names go with fleet = true"),
        ({"auth": {}}, "registry.auth.htpasswd"),
        ({"auth": {"htpasswd": "u", "scheme": "digest"}}, "registry.auth.scheme"),
        (
            {
                "auth": {
                    "htpasswd": "u",
                    "rules": [{"users": ["anonymous"], "repositories": ["**"], "actions": ["push"]}],
                }
            },
            "registry.auth.rules.0: 'anonymous' may only pull",
        ),
        (
            {
                "auth": {
                    "htpasswd": "u",
                    "rules": [{"users": [], "repositories": ["**"], "actions": ["pull"]}],
                }
            },
            "users",
        ),
        (
            {"pull_through": {"rules": [{"pattern": "**", "stale": "maybe"}]}},
            "registry.pull_through.rules.0.stale",
        ),
    ],
)
def test_what_is_not_safe_keeps_the_node_from_starting(registry: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Config.load(registry=registry)


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.255.0.1", "::1", "[::1]", "LOCALHOST")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "::", "10.0.0.1", "localhost.example", "fe80::1")))


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ({}, "ground_control and token_file"),
        ({"shadow": True}, "ground_control and token_file"),
        ({"ground_control": "https://gc.example"}, "ground_control and token_file"),
        ({"ground_control": "gc.example", "token_file": "t"}, r"https://HOST"),
        ({"ground_control": "ftp://gc.example", "token_file": "t"}, r"https://HOST"),
        ({"ground_control": "https://u:p@gc.example", "token_file": "t"}, r"https://HOST"),
        ({"ground_control": "http://gc.example", "token_file": "t"}, "plain_http"),
        ({"state": "https://h.example/a:latest", "poll": 0}, "poll"),
    ],
)
def test_a_satellite_that_leads_nowhere_is_refused(section: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Config.load(fleet={"harbor_satellite": section})


def test_a_satellite_registers_or_is_registered_already() -> None:
    assert Config.load().fleet.harbor_satellite is None
    for section in (
        {"state": "https://h.example/a:latest", "shadow": True},
        {"ground_control": "https://gc.example", "token_file": "t"},
        {"ground_control": "http://gc.example", "token_file": "t", "plain_http": True},
    ):
        assert Config.load(fleet={"harbor_satellite": section}).fleet.harbor_satellite is not None


def test_limits_of_the_uplink(tmp_path: Path) -> None:
    file = tmp_path / "meshsat.toml"
    file.write_text(
        "[uplink]\nrate = 5\n[uplink.quota]\nday = 7\ntimezone = 'Europe/Berlin'\n"
        "[[uplink.windows]]\ncron = '0 2 * * *'\nduration = 3600\n"
    )
    assert Config.load(file).uplink.limits == WanLimits(
        5, Quota(day=7, timezone="Europe/Berlin"), (Window("0 2 * * *", 3600.0),)
    )
    assert Config.load().uplink.limits == WanLimits()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[uplink.quota]\nday = -1\n", "uplink.quota.day"),
        ("[uplink.quota]\nweek = 1\n", "uplink.quota.week"),
        ("[uplink.quota]\ntimezone = 'Mars/Olympus'\n", "time zone 'Mars/Olympus' is not known"),
        ("[[uplink.windows]]\ncron = 'at night'\nduration = 1\n", "five fields"),
        ("[[uplink.windows]]\ncron = '0 2 * * *'\n", "duration"),
        ("[uplink]\nurgent = 'always'\n", "uplink.urgent"),
    ],
)
def test_limits_that_mean_nothing_are_told(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "meshsat.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as fault:
        Config.load(file)
    assert told in str(fault.value)
