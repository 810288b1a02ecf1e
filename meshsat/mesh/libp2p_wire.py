"""What we use of py-libp2p, and the only file that imports it: peer ids, multistream-select, Noise.

A wall: whatever the library raises leaves here as `StreamBroken`, and nothing of it lives on by itself: no
task, no thread, no table. Its Host, Swarm, TCP transport and muxer are not used (docs/decisions says why).

Importing all of py-libp2p takes 54 MB and 0.5 s; what is used of it, a third. So it is imported by whoever
makes a `Wire`, not by this module, and its packages' `__init__`s, which import all the rest, are not run. It
installs no log handler then, and its own logger, which tells of every stranger's failure as an error, is
silenced: what is worth telling is told by `libp2p_transport.py`. With `LIBP2P_DEBUG` in the environment it
keeps its voice.

Not here: passes, streams, who may connect.
"""

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import trio

from meshsat.mesh.muxer import MuxedStream
from meshsat.mesh.transport import StreamBroken
from meshsat.trust.keys import NodeKey, PeerId, parse_peer_id_untrusted

YAMUX = "/yamux/1.0.0"
_NOISE_MESSAGE_LIMIT = 65535
_SELECT_LIMIT = 1024
"""Bytes of one multistream-select message; protocol ids are short."""
_NEVER = 3600
"""Seconds for the library's own timers, which are coarse: the caller's deadline is the one that counts."""


class Wire:
    """The libp2p side of one node key."""

    def __init__(self, key: NodeKey) -> None:
        library = self._library = _Library()
        private = library.ed25519.Ed25519PrivateKey.from_bytes(key.private.private_bytes_raw())
        noise = library.noise.Transport(
            library.keys.KeyPair(private, private.get_public_key()),
            noise_privkey=library.x25519.create_new_key_pair().private_key,
        )
        # Noise alone: by default the library accepts plaintext too (and SECIO).
        self._security = library.security.SecurityMultistream({library.noise.PROTOCOL_ID: noise})

    async def secure_outbound(self, stream: trio.abc.Stream, peer: PeerId | None) -> "NoiseChannel":
        """Noise as the initiator, then yamux agreed upon. Raises `StreamBroken`.

        With a `peer`, whoever answers has proved to hold its key; without, it has proved
        `NoiseChannel.peer`'s.
        """
        with _walled():
            expected = None if peer is None else self._library.peer_id.ID.from_base58(peer)
            session = await self._security.secure_outbound(_SocketBytes(stream), expected)
            await self._select(session, YAMUX)
            return _channel(session, stream, initiator=True)

    async def secure_inbound(self, stream: trio.abc.Stream) -> "NoiseChannel":
        """The same as the responder. Raises `StreamBroken`."""
        with _walled():
            session = await self._security.secure_inbound(_SocketBytes(stream))
            await self._answer(session, [YAMUX])
            return _channel(session, stream, initiator=False)

    async def select(self, stream: MuxedStream, protocol: str) -> None:
        """Agree on `protocol` as the one who opened `stream`. Raises `StreamBroken`."""
        with _walled():
            await self._select(_StreamBytes(stream), protocol)

    async def answer(self, stream: MuxedStream, protocols: Sequence[str]) -> str:
        """Agree on one of `protocols` as the one who accepted `stream`. Raises `StreamBroken`."""
        with _walled():
            return await self._answer(_StreamBytes(stream), protocols)

    async def _select(self, connection: Any, protocol: str) -> None:
        communicator = self._library.communicator.MultiselectCommunicator(connection)
        await self._library.client.MultiselectClient().select_one_of([protocol], communicator, _NEVER)

    async def _answer(self, connection: Any, protocols: Sequence[str]) -> str:
        communicator = self._library.communicator.MultiselectCommunicator(connection)
        multiselect = self._library.multiselect.Multiselect(dict.fromkeys(protocols))
        chosen, _ = await multiselect.negotiate(communicator, _NEVER)
        if chosen not in protocols:
            raise StreamBroken("the peer chose no protocol")
        return str(chosen)


class NoiseChannel:
    """A `muxer.Channel` over an encrypted connection, to whoever holds the key of `peer`."""

    def __init__(self, session: Any, stream: trio.abc.Stream, peer: PeerId, *, initiator: bool) -> None:
        self._session = session
        self._stream = stream
        self.peer = peer
        self.initiator = initiator
        """Whether we dialled."""

    async def receive(self) -> bytes:
        with _walled():
            return bytes(await self._session.read(None))

    async def send(self, data: bytes) -> None:
        with _walled():
            await self._session.write(data)

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)


class _SocketBytes:
    """A connection as the library reads it: `read(n)` is exact, and never asked for more than a message.

    The library gives up on a message that comes in more than 100 pieces, and would collect what a
    stranger's length prefix claims; neither happens where every read is whole and bounded.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._ahead = bytearray()

    async def read(self, n: int | None = None) -> bytes:
        if n is None or n > _NOISE_MESSAGE_LIMIT:
            raise StreamBroken("the peer announces a message that is too long")
        while len(self._ahead) < n:
            received = await self._stream.receive_some(256 * 1024)
            if not received:
                raise StreamBroken("the peer closed the connection")
            self._ahead += received
        taken = bytes(self._ahead[:n])
        del self._ahead[:n]
        return taken

    async def write(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)


class _StreamBytes:
    """A muxed stream as multistream-select reads it."""

    def __init__(self, stream: MuxedStream) -> None:
        self._stream = stream

    async def read(self, n: int | None = None) -> bytes:
        if n is None or n > _SELECT_LIMIT:
            raise StreamBroken("the peer announces a protocol id that is too long")
        taken = bytearray(n)
        if await self._stream.receive_into(memoryview(taken)) < n:
            raise StreamBroken("the stream ended while its protocol was agreed on")
        return bytes(taken)

    async def write(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def close(self) -> None:
        self._stream.close()


class _Library:
    """The modules of py-libp2p that are used."""

    def __init__(self) -> None:
        handlers = list(logging.root.handlers)
        with _hollow_package("libp2p"), _hollow_package("libp2p.transport"):
            from libp2p.crypto import ed25519, keys, x25519  # noqa: PLC0415 - dear: see the module's docstring
            from libp2p.peer import id as peer_id  # noqa: PLC0415
            from libp2p.protocol_muxer import (  # noqa: PLC0415
                multiselect,
                multiselect_client,
                multiselect_communicator,
            )
            from libp2p.security import security_multistream  # noqa: PLC0415
            from libp2p.security.noise import transport as noise  # noqa: PLC0415

        self.ed25519, self.keys, self.x25519, self.peer_id = ed25519, keys, x25519, peer_id
        self.multiselect, self.client = multiselect, multiselect_client
        self.communicator = multiselect_communicator
        self.security, self.noise = security_multistream, noise
        logging.root.handlers[:] = handlers
        if not os.environ.get("LIBP2P_DEBUG"):
            logging.getLogger("libp2p").setLevel(logging.CRITICAL + 1)


@contextmanager
def _hollow_package(name: str) -> Iterator[None]:
    """Import modules of a package without running its `__init__`, which would import all the others.

    Where somebody has imported the package before, it is taken as it is; whoever does so later runs it.
    """
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None:
        yield
        return
    package = ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules[name] = package
    try:
        yield
    finally:
        del sys.modules[name]


def _channel(session: Any, stream: trio.abc.Stream, *, initiator: bool) -> NoiseChannel:
    # That an outbound session is with the expected peer, Noise has checked (libp2p specs, noise/README.md).
    peer = parse_peer_id_untrusted(session.get_remote_peer().to_base58())
    return NoiseChannel(session, stream, peer, initiator=initiator)


@contextmanager
def _walled() -> Iterator[None]:
    try:
        yield
    except StreamBroken:
        raise
    except Exception as fault:
        cause = fault.__cause__ if isinstance(fault.__cause__, StreamBroken) else fault
        raise StreamBroken(f"{type(cause).__name__}: {cause}"[:200]) from fault
