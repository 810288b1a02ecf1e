"""Docker's files and helpers: real files, real processes."""

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from meshsat.config import UplinkSection, UpstreamRegistry
from meshsat.errors import ConfigError, DeniedError, InvalidInputError
from meshsat.uplink.credentials import (
    Credential,
    Credentials,
    Kind,
    parse_docker_config_untrusted,
    parse_helper_output_untrusted,
)
from meshsat.vault.machine_keys import KEY_FILE
from meshsat.vault.vault import Vault

SECRET = "hunter2"


def auth(name: str, password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{name}:{password}".encode()).decode()}


def write(path: Path, **config: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))
    return path


def helper(directory: Path, name: str, script: str) -> dict[str, str]:
    """An environment in which `docker-credential-NAME` is this shell script."""
    program = directory / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {"PATH": f"{directory}:/usr/bin:/bin"}


async def find(
    section: UplinkSection, environ: dict[str, str], registry: str = "reg.test", repository: str = "a/b"
) -> Credential | None:
    return await Credentials(section, environ).find(registry, repository)


async def test_the_entry_of_the_registry_comes_first(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(SECRET + "\n")
    config = write(tmp_path / "config.json", auths={"reg.test": auth("other")})
    entry = UpstreamRegistry(host="reg.test", username="bob", password_file=tmp_path / "password")
    found = await find(UplinkSection(registries=(entry,), docker_config=config), {})
    assert found == Credential(Kind.PASSWORD, "bob", SECRET, str(tmp_path / "password"))


async def test_order_of_the_files(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert await find(UplinkSection(), home) is None
    write(tmp_path / ".docker" / "config.json", auths={"reg.test": auth("docker"), "b.test": auth("only")})
    assert (await find(UplinkSection(), home)).username == "docker"  # type: ignore[union-attr]
    named = write(tmp_path / "auth.json", auths={"reg.test": auth("podman")})
    both = {**home, "REGISTRY_AUTH_FILE": str(named)}
    assert (await find(UplinkSection(), both)).username == "podman"  # type: ignore[union-attr]
    assert (await find(UplinkSection(), both, "b.test")).username == "only"  # type: ignore[union-attr]
    given = write(tmp_path / "given.json", auths={"reg.test": auth("given")})
    assert (await find(UplinkSection(docker_config=given), both)).username == "given"  # type: ignore[union-attr]
    assert await find(UplinkSection(docker_config=given), both, "b.test") is None


async def test_the_longest_path_wins(tmp_path: Path) -> None:
    config = write(tmp_path / "c.json", auths={"reg.test": auth("all"), "reg.test/team": auth("team")})
    section = UplinkSection(docker_config=config)
    for repository, name in (("team/app", "team"), ("teamwork/app", "all"), ("team", "team"), ("x", "all")):
        found = await find(section, {}, repository=repository)
        assert found is not None
        assert found.username == name


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("https://Reg.Test:5000/v2/", "reg.test:5000"),
        ("http://reg.test", "reg.test"),
        ("reg.test/v1/", "reg.test"),
    ],
)
def test_keys_of_all_spellings(key: str, registry: str) -> None:
    assert set(parse_docker_config_untrusted(json.dumps({"auths": {key: auth("x")}}).encode()).auths) == {
        registry
    }


def test_kinds_of_entries() -> None:
    def kind(entry: dict[str, str]) -> tuple[Kind, str, str] | None:
        found = parse_docker_config_untrusted(json.dumps({"auths": {"r": entry}}).encode()).auths.get("r")
        return (found.kind, found.username, found.secret) if found else None

    assert kind({}) is None
    assert kind(auth("bob", "a:b")) == (Kind.PASSWORD, "bob", "a:b")
    assert kind({"username": "bob", "password": "p"}) == (Kind.PASSWORD, "bob", "p")
    assert kind({**auth("bob", ""), "identitytoken": "idt"}) == (Kind.IDENTITY_TOKEN, "bob", "idt")
    assert kind({"registrytoken": "rt"}) == (Kind.REGISTRY_TOKEN, "", "rt")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'{"auths": []}',
        b'{"auths": {"r": 1}}',
        b'{"auths": {"r": {"auth": "hunter2!"}}}',
        b'{"auths": {"r": {"identitytoken": "a\\nb"}}}',
        b'{"auths": {"r": {"username": "\\ud800", "password": "hunter2"}}}',
        b'{"credsStore": "../../bin/sh"}',
        b'{"credHelpers": {"r": 5}}',
        b" " * (1024 * 1024 + 1),
        b"[" * 100_000,
    ],
)
def test_malformed_configs_are_refused_without_quoting_them(raw: bytes) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_docker_config_untrusted(raw)
    assert "hunter2" not in str(refused.value)


async def test_what_cannot_be_read_says_which_file(tmp_path: Path) -> None:
    with pytest.raises(DeniedError, match=r"nothing\.json cannot be read \(No such file"):
        await find(UplinkSection(docker_config=tmp_path / "nothing.json"), {})
    (tmp_path / "bad.json").write_text("hunter2")
    with pytest.raises(DeniedError, match=r"bad\.json: not valid JSON; mend the file") as refused:
        await find(UplinkSection(docker_config=tmp_path / "bad.json"), {})
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_name_without_a_password_file() -> None:
    with pytest.raises(ConfigError, match="username and password_file go together"):
        Credentials(UplinkSection(registries=(UpstreamRegistry(host="reg.test", username="bob"),)), {})


def test_no_secret_in_a_repr() -> None:
    credential = Credential(Kind.PASSWORD, "bob", SECRET, "somewhere")
    assert SECRET not in repr(credential)
    assert credential.basic == "Basic " + base64.b64encode(b"bob:hunter2").decode()


async def test_helper_is_asked_for_the_host(tmp_path: Path) -> None:
    environ = helper(
        tmp_path,
        "vault",
        f'[ "$1" = get ] || exit 9; read server; echo "{{\\"Username\\":\\"$server\\",\\"Secret\\":\\"{SECRET}\\"}}"',
    )
    config = write(tmp_path / "c.json", credHelpers={"reg.test": "vault", "docker.io": "vault"})
    section = UplinkSection(docker_config=config)
    found = await find(section, environ)
    assert found is not None
    assert (found.username, found.secret, found.kind) == ("reg.test", SECRET, Kind.PASSWORD)
    hub = await find(section, environ, "docker.io")
    assert hub is not None
    assert hub.username == "https://index.docker.io/v1/"
    assert await find(section, environ, "other.test") is None


async def test_store_serves_those_without_an_entry(tmp_path: Path) -> None:
    environ = helper(tmp_path, "store", 'echo "{\\"Username\\":\\"<token>\\",\\"Secret\\":\\"idt\\"}"')
    config = write(tmp_path / "c.json", credsStore="store", auths={"b.test": auth("bob"), "reg.test": {}})
    section = UplinkSection(docker_config=config)
    found = await find(section, environ)
    assert found is not None
    assert found.kind is Kind.IDENTITY_TOKEN
    assert (await find(section, environ, "b.test")).username == "bob"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo not json", "not valid JSON"),
        ("exit 3", "ended with status 3"),
        ("yes", "answered with more than 65536 bytes"),
        ("exec sleep 60", r"did not answer within 0\.3 s"),
        ('echo "{}"', "answered without Username and Secret"),
    ],
)
async def test_helpers_that_misbehave(tmp_path: Path, script: str, reason: str) -> None:
    environ = helper(tmp_path, "bad", script)
    config = write(tmp_path / "c.json", credsStore="bad")
    began = time.monotonic()
    with pytest.raises(DeniedError, match=f"docker-credential-bad:? {reason}"):
        await find(UplinkSection(docker_config=config, helper_timeout=0.3), environ)
    assert time.monotonic() - began < 5


async def test_helper_that_knows_nothing_or_is_missing(tmp_path: Path) -> None:
    config = write(tmp_path / "c.json", credsStore="none")
    environ = helper(tmp_path, "none", "echo credentials not found in native keychain; exit 1")
    assert await find(UplinkSection(docker_config=config), environ) is None
    config = write(tmp_path / "d.json", credsStore="absent")
    with pytest.raises(DeniedError, match="docker-credential-absent cannot be run"):
        await find(UplinkSection(docker_config=config), environ)


def test_helper_output() -> None:
    with pytest.raises(InvalidInputError):
        parse_helper_output_untrusted(b'{"Username": "x", "Secret": ""}')


async def test_the_vault_comes_after_the_entry_and_before_docker(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("of the entry")
    (tmp_path / "password").chmod(0o600)
    config = write(tmp_path / "config.json", auths={"reg.test": auth("docker"), "b.test": auth("docker")})
    entry = UpstreamRegistry(host="reg.test", username="entry", password_file=tmp_path / "password")
    vault = Vault(tmp_path, {})
    for registry in ("reg.test", "b.test"):
        vault.put(registry, "vault", SECRET)

    async def user(section: UplinkSection, registry: str) -> str:
        found = await Credentials(section, {}, vault).find(registry, "a")
        assert found is not None
        assert SECRET not in repr(found)
        return found.username

    both = UplinkSection(registries=(entry,), docker_config=config)
    assert await user(both, "reg.test") == "entry"
    assert await user(UplinkSection(docker_config=config), "reg.test") == "vault"
    assert await user(both, "b.test") == "vault"
    vault.forget("b.test")
    assert await user(both, "b.test") == "docker"


async def test_a_login_that_cannot_be_opened_is_told_and_counts_as_none(tmp_path: Path) -> None:
    vault = Vault(tmp_path, {})
    vault.put("reg.test", "bob", SECRET)
    (vault.directory / KEY_FILE).unlink()
    credentials = Credentials(UplinkSection(), {}, vault)
    with capture_logs() as logs:
        for _ in range(3):
            assert await credentials.find("reg.test", "a") is None
    assert [entry["event"] for entry in logs] == ["a login is lost"]
    assert "meshsat login reg.test" in (credentials.lost("reg.test") or "")
    vault.put("reg.test", "bob", SECRET)
    assert await credentials.find("reg.test", "a") is not None
    assert credentials.lost("reg.test") is None


async def test_an_identity_token_in_the_vault(tmp_path: Path) -> None:
    vault = Vault(tmp_path, {})
    vault.put("reg.test", "<token>", "refresh")
    credentials = Credentials(UplinkSection(), {}, vault)
    found = await credentials.find("reg.test", "a")
    assert found is not None
    assert found.kind is Kind.IDENTITY_TOKEN
    vault.put("reg.test", "<token>", "no token with spaces")
    assert await credentials.find("reg.test", "a") is None


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602])
async def test_a_file_that_everybody_may_read_is_used_and_told_until_it_is_mended(
    tmp_path: Path, mode: int
) -> None:
    config = write(tmp_path / "config.json", auths={"reg.test": auth("docker")})
    config.chmod(mode)
    credentials = Credentials(UplinkSection(docker_config=config), {})
    with capture_logs() as logs:
        for _ in range(3):
            assert await credentials.find("reg.test", "a") is not None
    assert len(logs) == 1
    (problem,) = credentials.problems
    assert f"chmod 600 {config}" in problem
    config.chmod(0o640)
    await credentials.find("reg.test", "a")
    assert credentials.problems == []
