"""A use of a join token: who joined with it. Enrollers tell each other theirs by gossip, so that each
counts all.

Uses merge as sets, in any order, any number of times. They are not signed: it is members who tell them,
and the worst that a lie does is to use up a token.
"""

from dataclasses import dataclass

import cbor2

from meshsat.cbor import decode_cbor_untrusted
from meshsat.errors import InvalidInputError
from meshsat.protocol.sums import Sums, leaf_key, leaf_version
from meshsat.trust.keys import PeerId, parse_peer_id_untrusted
from meshsat.trust.passes import DAY
from meshsat.trust.tokens import ID_LENGTH

LIMIT = 20_000
"""Uses kept."""


@dataclass(frozen=True, slots=True, order=True)
class TokenUse:
    token: str
    """The token's id, in hexadecimal."""
    joiner: PeerId
    at: float
    """Unix seconds, as `expires`, the token's."""
    expires: float

    @property
    def key(self) -> tuple[str, PeerId]:
        return self.token, self.joiner

    def encode(self) -> bytes:
        return cbor2.dumps([self.token, self.joiner, self.at, self.expires])


def parse_token_use_untrusted(value: object) -> TokenUse:
    """A use out of a decoded JSON map. Raises `InvalidInputError`."""
    if not isinstance(value, dict) or set(value) != {"token", "joiner", "at", "expires"}:
        raise InvalidInputError("a token's use has token, joiner, at and expires")
    return _use(value["token"], value["joiner"], value["at"], value["expires"])


def decode_token_use_untrusted(data: bytes) -> TokenUse:
    """A use as it travels. Raises `InvalidInputError`."""
    items = decode_cbor_untrusted(data)
    if type(items) is not list or len(items) != 4:
        raise InvalidInputError("a token's use has four fields")
    return _use(*items)


def _use(token: object, joiner: object, at: object, expires: object) -> TokenUse:
    if not isinstance(token, str) or len(token) != 2 * ID_LENGTH or not set(token) <= set("0123456789abcdef"):
        raise InvalidInputError("a token's id is 32 hexadecimal digits")
    return TokenUse(token, parse_peer_id_untrusted(joiner), _unix(at), _unix(expires))


def _unix(time: object) -> float:
    # Not-a-number fails the comparison too.
    if not isinstance(time, int | float) or type(time) is bool or not 0 <= time < 1 << 40:
        raise InvalidInputError("a time is a number of Unix seconds")
    return float(time)


class UseSet:
    """The uses that are still of interest; of two of one key, which only clocks tell apart, the smaller."""

    def __init__(self) -> None:
        self.sums = Sums()
        self._uses: dict[bytes, TokenUse] = {}
        self._look_at = 0.0

    def merge(self, use: TokenUse, unix: float) -> bool:
        """Take the use in if it is news."""
        self._forget_old(unix)
        key = leaf_key(*use.key)
        known = self._uses.get(key)
        if use.expires + DAY <= unix or (known is None and len(self._uses) >= LIMIT):
            return False
        if known is not None and known <= use:
            return False
        self._uses[key] = use
        self.sums.put(key, leaf_version(use.encode()))
        return True

    def item(self, key: bytes) -> bytes | None:
        use = self._uses.get(key)
        return None if use is None else use.encode()

    def _forget_old(self, unix: float) -> None:
        if unix >= self._look_at:
            self._look_at = unix + 3600.0
            for key, use in list(self._uses.items()):
                if use.expires + DAY <= unix:
                    del self._uses[key]
                    self.sums.drop(key)
