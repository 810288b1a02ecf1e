"""The htpasswd file: who may log in, as Apache's `htpasswd -B` writes it. bcrypt hashes only.

Laws: the file is refused as a whole when anything in it is not as it should be, so that no line is silently
without effect; neither a hash nor a password is in any error; a file that others may read or write is
refused. Reading is blocking: it belongs in a thread.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meshsat.config import ANONYMOUS
from meshsat.errors import ConfigError, InvalidInputError

FILE_LIMIT = 1024 * 1024
USERS_LIMIT = 10_000
NAME_LIMIT = 255
COST_LIMIT = 15
"""bcrypt's cost is a power of two: at 15 one login takes some seconds of a core."""

_HASH = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
_CREATE = "make it with `htpasswd -B` (bcrypt)"

Stamp = tuple[int, int, int]
"""Of a file: it changes when its content or its mode does."""


@dataclass(frozen=True, slots=True)
class Users:
    """Who may log in."""

    hashes: Mapping[str, bytes] = field(repr=False)
    """User's name -> bcrypt hash. Not empty."""
    stamp: Stamp


def parse_htpasswd_untrusted(raw: bytes) -> dict[str, bytes]:
    """User's name -> bcrypt hash. Raises `InvalidInputError`, with the line's number and nothing secret."""
    if len(raw) > FILE_LIMIT:
        raise InvalidInputError(f"longer than {FILE_LIMIT} bytes")
    try:
        lines = raw.decode().splitlines()
    except UnicodeDecodeError:
        raise InvalidInputError("not UTF-8") from None
    users: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, hashed = line.rstrip().partition(":")
        if not colon or not name or len(name) > NAME_LIMIT or not name.isprintable():
            raise InvalidInputError(f"line {number} is not NAME:HASH")
        if name in ("*", ANONYMOUS):
            raise InvalidInputError(
                f"line {number}: no user can be called {name!r}: in rules it means others"
            )
        match = _HASH.fullmatch(hashed)
        if match is None:
            raise InvalidInputError(f"line {number}: the hash of {name!r} is not bcrypt; {_CREATE}")
        if not 4 <= int(match[1]) <= COST_LIMIT:
            raise InvalidInputError(
                f"line {number}: the hash of {name!r} has a cost that is not 4 to {COST_LIMIT}"
            )
        if name in users:
            raise InvalidInputError(f"line {number}: {name!r} is there twice")
        users[name] = hashed.encode("ascii")
        if len(users) > USERS_LIMIT:
            raise InvalidInputError(f"more than {USERS_LIMIT} users")
    if not users:
        raise InvalidInputError(f"no user in it; {_CREATE}")
    return users


def stamp_of(path: Path) -> Stamp | None:
    """None where there is no file that can be looked at. Blocking."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ctime_ns, found.st_size, found.st_ino


def load_users(path: Path) -> Users:
    """Read the file. Blocking. Raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_mode & (stat.S_IROTH | stat.S_IWOTH):
                raise ConfigError(
                    f"registry.auth.htpasswd: {path} is open to everybody (mode {found.st_mode & 0o777:o}); "
                    f"run: chmod 640 {path}"
                )
            raw = file.read(FILE_LIMIT + 1)
        return Users(parse_htpasswd_untrusted(raw), (found.st_ctime_ns, found.st_size, found.st_ino))
    except OSError as fault:
        raise ConfigError(
            f"registry.auth.htpasswd: {path} cannot be read: {fault.strerror}; {_CREATE}"
        ) from None
    except InvalidInputError as fault:
        raise ConfigError(f"registry.auth.htpasswd: {path}: {fault}") from None
