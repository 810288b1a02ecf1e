"""Who joined with which token: a file `DATA/identity/tokens.json`, kept by every enroller.

A use is a token and a joiner's key; the same machine again is no new use, so an answer that got lost costs
nothing. Uses merge as sets: enrollers can tell each other theirs in any order, any number of times.
Enrollers that cannot reach each other may together honour a token more often than it says; its expiry bounds
that.

A use is forgotten a day after its token's end.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import structlog
import trio

from meshsat.errors import ConfigError, DeniedError, InvalidInputError
from meshsat.private_files import write_file
from meshsat.protocol.token_use import LIMIT, TokenUse, parse_token_use_untrusted
from meshsat.trust.keys import PeerId
from meshsat.trust.passes import DAY
from meshsat.trust.tokens import Token

log = structlog.get_logger(__name__)

FILE = "tokens.json"
_FILE_LIMIT = 16 * 1024 * 1024


class TokenLedger:
    """`directory` is the identity's; None keeps the uses in memory only. `clock` gives Unix seconds.

    Raises `ConfigError`.
    """

    def __init__(self, directory: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._tell: Callable[[TokenUse], None] = lambda _use: None
        self._unsaved = trio.Event()
        self._path = directory / FILE if directory is not None else None
        self._uses: dict[tuple[str, PeerId], TokenUse] = {}
        self._saving = trio.Lock()
        if self._path is not None and self._path.exists():
            self._load(self._path)

    def uses(self, token_id: bytes) -> int:
        return sum(token == token_id.hex() for token, _ in self._uses)

    def joiners(self, token_id: bytes) -> list[PeerId]:
        """Who joined with it."""
        return [joiner for token, joiner in self._uses if token == token_id.hex()]

    def records(self) -> list[TokenUse]:
        """All of them, in a fixed order."""
        return sorted(self._uses.values())

    def admit(self, token: Token, joiner: PeerId, now: float) -> None:
        """Count a use, in memory: call `save` before anything is given for it.

        Raises `DeniedError` where the token is used up.
        """
        self._forget_old(now)
        use = TokenUse(token.id.hex(), joiner, now, token.grant.expires)
        if use.key in self._uses:
            return
        if self.uses(token.id) >= token.grant.uses:
            raise DeniedError("the token is used up; ask for a new one (`meshsat invite`)")
        if len(self._uses) >= LIMIT:
            raise DeniedError("this enroller has too many joins to remember; try another, or wait a day")
        self._uses[use.key] = use
        self._tell(use)

    def merge(self, records: Iterable[TokenUse], now: float) -> int:
        """Take over other enrollers' uses; returns how many were new. `save` is the caller's to call."""
        self._forget_old(now)
        before = len(self._uses)
        for use in records:
            if len(self._uses) < LIMIT and use.expires + DAY > now:
                self._uses.setdefault(use.key, use)
        return len(self._uses) - before

    async def save(self) -> None:
        """Returns when all that was counted before is on the disk. Raises `ConfigError`."""
        async with self._saving:
            if self._path is not None:
                data = json.dumps({"uses": [asdict(use) for use in self.records()]}, indent=0).encode()
                await trio.to_thread.run_sync(write_file, self._path, data)

    async def run(self, tell: Callable[[TokenUse], None]) -> None:
        """Run until cancelled: `tell` the site of all that is counted here, write down what it tells us."""
        for use in self.records():
            tell(use)
        self._tell = tell
        while True:
            await self._unsaved.wait()
            self._unsaved = trio.Event()
            try:
                await self.save()
            except ConfigError as full:
                log.warning("uses of join tokens are not kept over a restart", problem=str(full))

    def take(self, use: TokenUse) -> None:
        """Another enroller's use; it is written down soon."""
        if self.merge((use,), self._clock()):
            self._unsaved.set()

    def _forget_old(self, now: float) -> None:
        for key, use in list(self._uses.items()):
            if use.expires + DAY <= now:
                del self._uses[key]

    def _load(self, path: Path) -> None:
        try:
            if path.stat().st_size > _FILE_LIMIT:
                raise ConfigError(f"{path} is too large; remove it: tokens still good count from zero again")
            uses = [parse_token_use_untrusted(value) for value in json.loads(path.read_bytes())["uses"]]
        except OSError as fault:
            raise ConfigError(f"{path} cannot be read: {fault.strerror}") from None
        except (ValueError, TypeError, KeyError, RecursionError, InvalidInputError):
            raise ConfigError(
                f"{path} is damaged; remove it: tokens still good count from zero again"
            ) from None
        self._uses = {use.key: use for use in uses}
