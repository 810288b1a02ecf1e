"""An Uplink beside a registry that misbehaves: real sockets, but no real pauses between tries."""

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from meshsat.config import UplinkSection, UpstreamRegistry
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.uplink.client import Uplink
from tests.images import random_bytes
from tests.upstream import Upstream

REPOSITORY = "library/pos"


@dataclass
class Wired:
    """An open Uplink, and what a test wants to know about it."""

    uplink: Uplink
    metrics: Metrics
    pauses: list[float] = field(default_factory=list)
    """What the back-off would have slept, in seconds."""

    @property
    def wan_in(self) -> float:
        return self.metrics.registry.get_sample_value("meshsat_wan_received_bytes_total") or 0.0

    async def read(
        self, up: Upstream, data: bytes, start: int = 0, stop: int | None = None, digest: Digest | None = None
    ) -> bytes:
        """The bytes of a blob that `up` should hold, as the uplink brings them."""
        stop = len(data) if stop is None else stop
        digest = digest or Digest.of(data)
        read = bytearray()
        async with self.uplink.blob(up.address, REPOSITORY, digest, start, stop, len(data)) as stream:
            async for piece in stream:
                assert 0 < len(piece) <= 256 * 1024
                read += piece
        return bytes(read)


Connect = Callable[..., AbstractAsyncContextManager[Wired]]


@pytest.fixture
def connect() -> Connect:
    """`async with connect(up, setting=...) as wired`: plain HTTP to `up` unless `registries` is given."""

    @asynccontextmanager
    async def connected(
        up: Upstream | None = None,
        environ: dict[str, str] | None = None,
        wall_clock: Any = None,
        **settings: Any,
    ) -> AsyncIterator[Wired]:
        if up is not None:
            settings.setdefault("registries", (UpstreamRegistry(host=up.address, plain_http=True),))
        metrics = Metrics()
        pauses: list[float] = []

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            await trio.lowlevel.checkpoint()

        more = {} if wall_clock is None else {"wall_clock": wall_clock}
        uplink = Uplink(
            UplinkSection(**settings),
            metrics,
            environ=environ or {},
            rng=random.Random(1),
            sleep=pause,
            **more,
        )
        async with uplink:
            yield Wired(uplink, metrics, pauses)

    return connected


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="session")
def data() -> bytes:
    return random_bytes(700_001, seed=7)
