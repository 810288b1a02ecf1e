"""py-libp2p's own host, as its documentation says to make one: what the tests of its defects are held against."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p import create_new_ed25519_key_pair, new_host
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from multiaddr import Multiaddr

from meshsat.trust.keys import NodeKey, PeerId


class StockHost:
    """`host` is the library's; `died` holds what ended it, if anything did."""

    def __init__(self, *, noise_only: bool, connections: int, key: NodeKey | None) -> None:
        pair = create_new_ed25519_key_pair(None if key is None else key.private.private_bytes_raw())
        noise = NoiseTransport(pair, noise_privkey=create_noise_key_pair().private_key)
        self.host: Any = new_host(
            key_pair=pair,
            sec_opt={NOISE: noise} if noise_only else None,
            connection_config=ConnectionConfig(
                min_connections=0, low_watermark=0, max_connections=connections, high_watermark=connections
            ),
        )
        self.died: BaseException | None = None
        self.over = trio.Event()

    async def dial(self, address: str, peer: PeerId, protocol: str) -> Any:
        """A stream of the library's."""
        host, port = address.split(":")
        remote = ID.from_base58(peer)
        await self.host.get_network().dial_addr(Multiaddr(f"/ip4/{host}/tcp/{port}"), remote)
        return await self.host.new_stream(remote, [protocol])

    @property
    def peer(self) -> PeerId:
        return PeerId(self.host.get_id().to_base58())

    @property
    def address(self) -> str:
        listener = next(iter(self.host.get_network().listeners.values()))
        host, port = listener.listeners[0].socket.getsockname()
        return f"{host}:{port}"

    def serve(self, protocol: str, handler: Callable[[Any], Awaitable[None]]) -> None:
        self.host.set_stream_handler(protocol, handler)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            async with self.host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
                task_status.started()
                await trio.sleep_forever()
        except Exception as fault:  # noqa: BLE001 - the library's, of whatever kind
            self.died = fault
        finally:
            self.over.set()


@asynccontextmanager
async def stock_host(
    *, noise_only: bool = True, connections: int = 300, key: NodeKey | None = None
) -> AsyncIterator[StockHost]:
    stock = StockHost(noise_only=noise_only, connections=connections, key=key)
    async with trio.open_nursery() as nursery:
        await nursery.start(stock.run)
        yield stock
        nursery.cancel_scope.cancel()
