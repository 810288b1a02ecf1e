"""Checks names and passwords against the htpasswd file, and keeps guessing slow and other clients unharmed.

bcrypt is slow on purpose, so: a few checks at a time, in threads; equal questions that come together are one;
what was right is remembered for a moment, under a keyed hash that tells nothing and only as long as the
file has the same hash; who is wrong too often from one address waits, and nobody else does. A name that is
not in the file takes as long as one that is. The file is read again when it changes; one that can't be used
leaves the users of before in force, and is told.
"""

import hashlib
import os
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path

import bcrypt
import structlog
import trio

from meshsat.audit.event import FAILURE, SUCCESS, Actor, Audit, NoAudit, Outcome
from meshsat.audit.sparing import Sparing
from meshsat.errors import ConfigError
from meshsat.registry.authorization import Password
from meshsat.registry.htpasswd import Users, load_users, stamp_of

CHECKS = 2
"""At once: each keeps a core busy."""
WAITING_LIMIT = 64
"""Checks that wait for their turn."""
REMEMBER = 60.0
"""Seconds for which what was right is not checked again."""
REMEMBERED = 1024
LOOK = 1.0
"""Seconds between two looks whether the file has changed."""
FAILURES = 10
"""Wrong ones that an address has at once; after that one each `PAUSE` seconds."""
PAUSE = 6.0
ADDRESSES = 4096
BCRYPT_LIMIT = 72
"""Bytes of a password that bcrypt looks at; Apache's htpasswd drops the others as well."""

log = structlog.get_logger(__name__)


class TooManyError(Exception):
    """Not checked: too many were wrong, or too many wait. `retry_after` in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many attempts to log in")
        self.retry_after = retry_after


class Attempts:
    """How many wrong ones each address has left. One is taken before a check, and given back if it was right:
    so many at once do not get around it."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Address -> attempts left, and when that was so."""

    def take(self, address: str, now: float) -> None:
        """Raises `TooManyError`."""
        left = self._at(address, now)
        if left < 1.0:
            raise TooManyError((1.0 - left) * PAUSE)
        self._keep(address, left - 1.0, now)

    def give_back(self, address: str, now: float) -> None:
        self._keep(address, min(FAILURES, self._at(address, now) + 1.0), now)

    def _at(self, address: str, now: float) -> float:
        left, then = self._left.get(address, (float(FAILURES), now))
        return min(FAILURES, left + (now - then) / PAUSE)

    def _keep(self, address: str, left: float, now: float) -> None:
        self._left.pop(address, None)
        if left < FAILURES:
            self._left[address] = left, now
        while len(self._left) > ADDRESSES:
            self._left.popitem(last=False)


@dataclass(slots=True)
class _Check:
    """One on its way."""

    done: trio.Event = field(default_factory=trio.Event)
    right: bool | None = None
    """None after `done`: it was given up."""


class Passwords:
    """Raises `ConfigError` when the file can't be used at the start. `check`: bcrypt's, or a test's."""

    def __init__(
        self,
        path: Path,
        check: Callable[[bytes, bytes], bool] = bcrypt.checkpw,
        key: bytes | None = None,
        audit: Audit | None = None,
    ) -> None:
        self._path = path
        self._check: Callable[[bytes, bytes], bool] = check
        self._key = key or os.urandom(32)
        self._users: Users = load_users(path)
        self._ordered = tuple(self._users.hashes.values())
        self._seen = self._users.stamp
        self._look_at = float("-inf")
        self._right: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        """Keyed hash of name and password -> the hash in the file it was right for, and until when."""
        self._attempts = Attempts()
        self._checks: dict[bytes, _Check] = {}
        self._limiter = trio.CapacityLimiter(CHECKS)
        self._audit = Sparing(audit or NoAudit(), trio.current_time)
        self.problem: str | None = None
        """Why the file as it is now is not in force."""

    async def known(self, user: str) -> bool:
        """Whether there still is such a user."""
        await self._refresh()
        return user in self._users.hashes

    async def right(self, password: Password, client: str) -> bool:
        """Whether the file has this name with this password. Raises `TooManyError`."""
        await self._refresh()
        name = password.name.encode()
        key = self._hash(struct.pack(">I", len(name)) + name + password.secret)
        while not self._remembered(key, password.name):
            other = self._checks.get(key)
            if other is None:
                return await self._one_check(key, password, client)
            await other.done.wait()
            if other.right is not None:
                return other.right
        return True

    def _remembered(self, key: bytes, name: str) -> bool:
        hashed, until = self._right.get(key, (b"", 0.0))
        return trio.current_time() < until and self._users.hashes.get(name) == hashed

    async def _one_check(self, key: bytes, password: Password, client: str) -> bool:
        address = _network(client)
        if len(self._checks) >= CHECKS + WAITING_LIMIT:
            raise TooManyError(1.0)
        try:
            self._attempts.take(address, trio.current_time())
        except TooManyError:
            self._record(None, client, FAILURE, "rate_limited")
            raise
        check = self._checks[key] = _Check()
        hashed = self._users.hashes.get(password.name)
        # A stranger's name is checked against somebody's hash, always the same: so it takes as long.
        somebody = int.from_bytes(self._hash(password.name.encode())[:8], "big") % len(self._ordered)
        against = hashed or self._ordered[somebody]
        try:
            same = await trio.to_thread.run_sync(
                self._check, password.secret[:BCRYPT_LIMIT], against, limiter=self._limiter
            )
            check.right = same and hashed is not None
        finally:
            del self._checks[key]
            check.done.set()
        if check.right:
            self._attempts.give_back(address, trio.current_time())
            self._remember(key, against)
            self._record(password.name, client, SUCCESS, "")
        else:
            name = password.name if hashed is not None else None  # a slip of the hand may be the password
            log.warning("login refused", user=name, client=address)
            self._record(name, client, FAILURE, "unknown_user" if name is None else "bad_password")
        return check.right

    def _record(self, user: str | None, client: str, outcome: Outcome, reason: str) -> None:
        actor = Actor("client", user or "", client)
        self._audit.record("user.login", actor=actor, object="registry", outcome=outcome, reason=reason)

    def _remember(self, key: bytes, hashed: bytes) -> None:
        self._right.pop(key, None)
        self._right[key] = hashed, trio.current_time() + REMEMBER
        while len(self._right) > REMEMBERED:
            self._right.popitem(last=False)

    def _hash(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, key=self._key, digest_size=32).digest()

    async def _refresh(self) -> None:
        """Read the file if it is another than before. While one looks, others go on with what is known."""
        now = trio.current_time()
        if now < self._look_at:
            return
        self._look_at = now + LOOK
        stamp = await trio.to_thread.run_sync(stamp_of, self._path)
        if stamp is not None and stamp == self._seen:
            return
        try:
            users = await trio.to_thread.run_sync(load_users, self._path)
        except ConfigError as fault:
            if self.problem != str(fault):
                log.warning("the users of before stay in force", problem=str(fault))
            self.problem = str(fault)
            return
        self._users, self._seen = users, users.stamp
        self._ordered = tuple(users.hashes.values())
        self.problem = None
        log.info("users read again", users=len(users.hashes))


def _network(client: str) -> str:
    """What counts as one address: of IPv6 a whole /64, since one machine has all of it."""
    try:
        address = ip_address(client)
    except ValueError:
        return client
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ip_network((int(address), 64), strict=False))
    return str(address)
