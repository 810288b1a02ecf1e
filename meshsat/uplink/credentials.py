"""Credentials: who we are to a registry: the configuration, the vault, Docker's files, a credential helper.

Order: the registry's own entry (`username`, `password_file`), since somebody wrote it for this registry; the
vault (`meshsat login`); then, in `docker_config` if that is set, else in `$REGISTRY_AUTH_FILE` and after it
`~/.docker/config.json`: the registry's `credHelpers` entry, `auths` (the longest matching path first, as
containers-auth.json(5) has it), `credsStore`. They are read anew each time, since they rotate. A login in the
vault that cannot be opened is told, and counts as none.
Law: a secret is in no repr, no log and no exception.
"""

import base64
import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import structlog
import trio

from meshsat.config import UplinkSection
from meshsat.errors import ConfigError, DeniedError, InvalidInputError
from meshsat.oci.reference import DOCKER_HUB
from meshsat.vault.machine_keys import VaultError
from meshsat.vault.vault import Login, Vault

FILE_LIMIT = 1024 * 1024
HELPER_LIMIT = 64 * 1024
"""Bytes of a helper's answer."""
DOCKER_HUB_KEY = "https://index.docker.io/v1/"
"""What Docker calls its own registry in files, and to helpers."""

VAULT = "meshsat login"
"""What people are told of the vault as a source."""
IDENTITY_TOKEN_USER = "<token>"  # noqa: S105 - a name
"""The user name under which Docker keeps identity tokens."""

log = structlog.get_logger(__name__)

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NOT_FOUND = b"credentials not found"
"""How a helper says so (docker-credential-helpers, credentials/error.go)."""


class Kind(Enum):
    PASSWORD = "password"  # noqa: S105 - a name
    IDENTITY_TOKEN = "identity token"  # noqa: S105 - a name
    """An OAuth2 refresh token: buys access tokens."""
    REGISTRY_TOKEN = "registry token"  # noqa: S105 - a name
    """An access token, to be sent as it is."""


@dataclass(frozen=True, slots=True)
class Credential:
    kind: Kind
    username: str
    secret: str = field(repr=False)
    source: str = ""
    """Where it was found, for people."""

    @property
    def basic(self) -> str:
        """The Authorization header of RFC 7617."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.secret}".encode()).decode()


@dataclass(frozen=True, slots=True)
class DockerConfig:
    auths: Mapping[str, Credential]
    """`HOST[:PORT][/PATH]` -> credential."""
    helpers: Mapping[str, str]
    """`HOST[:PORT]` -> name of its helper."""
    store: str | None
    """The helper for all others."""


class Credentials:
    def __init__(
        self, section: UplinkSection, environ: Mapping[str, str], vault: Vault | None = None
    ) -> None:
        """Raises `ConfigError` for entries that cannot work."""
        self._section = section
        self._environ = environ
        self._vault = vault
        self._lost: dict[str, str] = {}
        """Registry -> why its login in the vault is not used."""
        self._exposed: dict[Path, str] = {}
        """File -> who may read it that should not."""
        self._entries = {entry.host.lower(): entry for entry in section.registries}
        for entry in section.registries:
            if (entry.username is None) != (entry.password_file is None):
                raise ConfigError(
                    f"uplink.registries {entry.host}: username and password_file go together; give both"
                )

    async def find(self, registry: str, repository: str) -> Credential | None:
        """None: nothing is known, so anonymous. Raises `DeniedError` when a source cannot be read."""
        entry = self._entries.get(registry)
        if entry is not None and entry.username is not None and entry.password_file is not None:
            raw = await self._read(entry.password_file, f"the password for registry {registry}")
            password = raw.decode(errors="replace").rstrip("\r\n")
            return Credential(Kind.PASSWORD, entry.username, password, str(entry.password_file))
        kept = await self._find_in_vault(registry)
        if kept is not None:
            return kept
        for path in self._files():
            found = await self._find_in(path, registry, repository)
            if found is not None:
                return found
        return None

    def stamp(self) -> object:
        """Another one when a login was kept, or forgotten, since."""
        return self._vault.stamp() if self._vault is not None else None

    def lost(self, registry: str) -> str | None:
        """Why a login that the vault has for it could not be used when it was last wanted."""
        return self._lost.get(registry)

    @property
    def problems(self) -> list[str]:
        """What an operator should see to."""
        return list(self._exposed.values())

    async def _find_in_vault(self, registry: str) -> Credential | None:
        if self._vault is None:
            return None
        try:
            login = await trio.to_thread.run_sync(self._vault.get, registry)
            found = None if login is None else _of_vault(login)
        except (VaultError, InvalidInputError) as fault:
            if self._lost.get(registry) != str(fault):
                log.warning("a login is lost", registry=registry, problem=str(fault))
            self._lost[registry] = str(fault)
            return None
        self._lost.pop(registry, None)
        return found

    def _files(self) -> Iterator[Path]:
        if self._section.docker_config is not None:
            yield self._section.docker_config
            return
        named, home = self._environ.get("REGISTRY_AUTH_FILE"), self._environ.get("HOME")
        places = [Path(named)] if named else []
        places += [Path(home, ".docker", "config.json")] if home else []
        yield from (place for place in places if place.is_file())

    async def _find_in(self, path: Path, registry: str, repository: str) -> Credential | None:
        raw = await self._read(path, f"credentials for registry {registry}")
        try:
            config = parse_docker_config_untrusted(raw, str(path))
        except InvalidInputError as fault:
            raise DeniedError(
                f"credentials for registry {registry}: {path}: {fault}; mend the file"
            ) from None
        helper = config.helpers.get(registry)
        if helper is not None:
            return await self._ask(helper, registry)
        name = f"{registry}/{repository}"
        while name:
            if name in config.auths:
                return config.auths[name]
            name = name.rpartition("/")[0]
        return await self._ask(config.store, registry) if config.store is not None else None

    async def _read(self, path: Path, what: str) -> bytes:
        try:
            async with await trio.open_file(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                raw = bytes(await file.read(FILE_LIMIT + 1))
        except OSError as fault:
            raise DeniedError(
                f"{what}: {path} cannot be read ({fault.strerror}); check uplink's settings"
            ) from None
        if not mode & (stat.S_IROTH | stat.S_IWOTH):
            self._exposed.pop(path, None)
        elif path not in self._exposed:
            self._exposed[path] = (
                f"{path} holds credentials and is open to everybody (mode {mode & 0o777:o}); "
                f"run: chmod 600 {path}"
            )
            log.warning(
                "a file with credentials is open to everybody", file=str(path), mode=f"{mode & 0o777:o}"
            )
        return raw

    async def _ask(self, helper: str, registry: str) -> Credential | None:
        program = f"docker-credential-{helper}"
        server = DOCKER_HUB_KEY if registry == DOCKER_HUB else registry
        try:
            with trio.fail_after(self._section.helper_timeout):
                status, output = await _run(program, server, self._environ)
        except trio.TooSlowError:
            raise DeniedError(
                f"credentials for registry {registry}: {program} did not answer within "
                f"{self._section.helper_timeout:g} s"
            ) from None
        except OSError as missing:
            raise DeniedError(
                f"credentials for registry {registry}: {program} cannot be run ({missing.strerror}); "
                "install it, or take it out of the Docker configuration"
            ) from None
        if status != 0 and _NOT_FOUND in output:
            return None
        if status != 0:
            raise DeniedError(f"credentials for registry {registry}: {program} ended with status {status}")
        try:
            return parse_helper_output_untrusted(output, program)
        except InvalidInputError as fault:
            raise DeniedError(f"credentials for registry {registry}: {program}: {fault}") from None


def _of_vault(login: Login) -> Credential:
    kind = Kind.IDENTITY_TOKEN if login.username == IDENTITY_TOKEN_USER else Kind.PASSWORD
    return _checked(Credential(kind, login.username, login.secret, VAULT))


def parse_docker_config_untrusted(raw: bytes, source: str = "") -> DockerConfig:
    """Docker's config.json, or containers-auth.json. Raises `InvalidInputError`."""
    if len(raw) > FILE_LIMIT:
        raise InvalidInputError(f"longer than {FILE_LIMIT} bytes")
    config = _object(raw)
    auths = _mapping(config, "auths")
    helpers = _mapping(config, "credHelpers")
    store = config.get("credsStore") or None
    for name in (*helpers.values(), *([store] if store is not None else [])):
        if not isinstance(name, str) or not _HELPER.fullmatch(name):
            raise InvalidInputError("credHelpers or credsStore names something that is no name of a helper")
    found = {_key(key): _credential(key, entry, source) for key, entry in auths.items()}
    return DockerConfig(
        auths={key: credential for key, credential in found.items() if credential is not None},
        helpers={_key(key): name for key, name in helpers.items()},
        store=store,
    )


def parse_helper_output_untrusted(raw: bytes, source: str = "") -> Credential:
    """What `docker-credential-X get` prints. Raises `InvalidInputError`."""
    if len(raw) > HELPER_LIMIT:
        raise InvalidInputError(f"answered with more than {HELPER_LIMIT} bytes")
    answer = _object(raw)
    username, secret = answer.get("Username"), answer.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str) or not secret:
        raise InvalidInputError("answered without Username and Secret")
    kind = Kind.IDENTITY_TOKEN if username == IDENTITY_TOKEN_USER else Kind.PASSWORD
    return _checked(Credential(kind, username, secret, source))


def _key(key: str) -> str:
    """`https://index.docker.io/v1/` and `docker.io` are one; a key without a scheme may hold a path."""
    scheme, separator, rest = key.partition("://")
    name = rest.partition("/")[0] if separator and scheme else key.rstrip("/")
    name = name.removesuffix("/v1").removesuffix("/v2")
    host, slash, path = name.partition("/")
    host = host.lower()
    return (DOCKER_HUB if host in ("index.docker.io", "registry-1.docker.io") else host) + slash + path


def _credential(key: str, entry: Any, source: str) -> Credential | None:
    """One of `auths`; None for the empty ones that Docker leaves where a helper holds the secret."""
    if not isinstance(entry, dict):
        raise InvalidInputError(f"auths: entry {key[:200]!r} is not an object")

    def text(name: str) -> str:
        value = entry.get(name, "")
        if not isinstance(value, str):
            raise InvalidInputError(f"auths: {name} of {key[:200]!r} is not a text")
        return value

    username, password = text("username"), text("password")
    if text("auth"):
        try:
            username, _, password = base64.b64decode(text("auth"), validate=True).decode().partition(":")
        except ValueError:
            raise InvalidInputError(f"auths: auth of {key[:200]!r} is not base64 of NAME:PASSWORD") from None
        password = password.rstrip("\0")
    if text("registrytoken"):
        return _checked(Credential(Kind.REGISTRY_TOKEN, username, text("registrytoken"), source))
    if text("identitytoken"):
        return _checked(Credential(Kind.IDENTITY_TOKEN, username, text("identitytoken"), source))
    return _checked(Credential(Kind.PASSWORD, username, password, source)) if username else None


def _checked(credential: Credential) -> Credential:
    try:
        _ = credential.basic
    except UnicodeEncodeError:  # lone surrogates, which JSON can spell
        raise InvalidInputError("a name or secret is not valid Unicode") from None
    if credential.kind is not Kind.PASSWORD and not re.fullmatch(r"[\x21-\x7e]+", credential.secret):
        raise InvalidInputError("a token has characters that no header may hold")
    return credential


def _object(raw: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(raw)
    except (ValueError, RecursionError):  # without the cause: it quotes what it could not read
        raise InvalidInputError("not valid JSON") from None
    if not isinstance(parsed, dict):
        raise InvalidInputError("not a JSON object")
    return parsed


def _mapping(config: dict[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInputError(f"{name} is not an object")
    return value


async def _run(program: str, server: str, environ: Mapping[str, str]) -> tuple[int, bytes]:
    """Run `program get` with the server's name on its standard input; its status and (bounded) output."""
    process = await trio.lowlevel.open_process(
        [program, "get"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(environ),
    )
    output = bytearray()
    try:
        if process.stdin is None or process.stdout is None:
            raise OSError(0, "no pipes")
        async with process.stdin, process.stdout:
            try:
                await process.stdin.send_all(server.encode())
                await process.stdin.aclose()
            except trio.BrokenResourceError:
                pass  # it answers without having read all
            while len(output) <= HELPER_LIMIT and (piece := await process.stdout.receive_some(4096)):
                output += piece
        if len(output) <= HELPER_LIMIT:
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):  # a killed process is gone at once
                await process.wait()
    status = process.returncode if len(output) <= HELPER_LIMIT else 0  # else it is we who ended it
    return status or 0, bytes(output)
