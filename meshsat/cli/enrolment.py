"""Find an enroller and join: the search of `meshsat join`.

Every address that somebody named or that turns up by mDNS is dialled on its own and again and again, since
the enroller may still be starting, but the token is shown to one at a time. Laws: it ends by the deadline; an
enroller that refuses is believed unless another admits us within `GRACE` seconds.
"""

from collections.abc import Sequence
from functools import partial

import trio

from meshsat.errors import DeniedError, InvalidInputError, MeshsatError, UnavailableError
from meshsat.mesh.discovery import Discovery, Sighting
from meshsat.mesh.enrol import Membership, join
from meshsat.mesh.libp2p_dial import open_enrol_stream
from meshsat.mesh.transport import TransportError
from meshsat.trust.keys import NodeKey
from meshsat.trust.passes import parse_node_name_untrusted

DIAL_LIMIT = 5.0
"""Seconds for one address to answer."""
PAUSE = 1.0
"""Seconds before an address is tried again."""
GRACE = 3.0
"""Seconds in which another enroller may admit us after one has refused."""
MOST = 64
"""Addresses that are tried; mDNS can be made to tell any number."""


class Joiner:
    """`text` is the token's, `key` this machine's.

    Raises `InvalidInputError` for a name that is not allowed.
    """

    def __init__(self, text: str, key: NodeKey, name: str) -> None:
        self._text = text
        self._key = key
        self._name = parse_node_name_untrusted(name)
        self._tried: set[str] = set()
        self._one_at_a_time = trio.Lock()
        self._scope = trio.CancelScope()
        self._membership: Membership | None = None
        self._refusal: MeshsatError | None = None
        self._fault = "nobody was found by mDNS, and no address is known; name one with --peer HOST:PORT"

    async def run(self, addresses: Sequence[str], discovery: Discovery | None, limit: float) -> Membership:
        """Join, within `limit` seconds.

        Raises `DeniedError` or `InvalidInputError` where an enroller refuses, `UnavailableError` where
        none can be reached.
        """
        with self._scope:
            self._scope.deadline = trio.current_time() + limit
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    self._consider(nursery, address)
                if discovery is not None:
                    await nursery.start(partial(discovery.run, partial(self._found, nursery)))
                await trio.sleep_forever()
        if self._membership is not None:
            return self._membership
        if self._refusal is not None:
            raise self._refusal
        raise UnavailableError(f"no enroller of the fleet within {limit:.0f} s: {self._fault}")

    def _found(self, nursery: trio.Nursery, sighting: Sighting) -> None:
        for address in sighting.control:
            self._consider(nursery, address)

    def _consider(self, nursery: trio.Nursery, address: str) -> None:
        if address not in self._tried and len(self._tried) < MOST:
            self._tried.add(address)
            nursery.start_soon(self._try, address)

    async def _try(self, address: str) -> None:
        while True:
            try:
                async with open_enrol_stream(self._key, [address], DIAL_LIMIT) as stream, self._one_at_a_time:
                    self._membership = await join(stream, self._text, self._key, self._name)
            except (DeniedError, InvalidInputError) as refusal:
                self._refusal = refusal
                self._scope.deadline = min(self._scope.deadline, trio.current_time() + GRACE)
                return
            except (TransportError, UnavailableError) as fault:
                self._fault = str(fault)
            else:
                self._scope.cancel()
                return
            await trio.sleep(PAUSE)
