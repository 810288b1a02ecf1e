"""What every transport does with the streams it has: keep count of them, and a wall around their handlers."""

from collections.abc import Iterator

import structlog
import trio

from meshsat.mesh.transport import Handler, Stream, TransportError
from meshsat.trust.admission import Admission
from meshsat.trust.keys import PeerId

log = structlog.get_logger(__name__)


class OpenStreams:
    """The streams of one transport that are not closed yet, by peer, in the order in which they were
    opened."""

    def __init__(self) -> None:
        self._by_peer: dict[PeerId, dict[int, Stream]] = {}

    def add(self, stream: Stream) -> None:
        self._by_peer.setdefault(stream.peer, {})[id(stream)] = stream

    def discard(self, stream: Stream) -> None:
        streams = self._by_peer.get(stream.peer, {})
        streams.pop(id(stream), None)
        if not streams:
            self._by_peer.pop(stream.peer, None)

    def of(self, peer: PeerId) -> tuple[Stream, ...]:
        return tuple(self._by_peer.get(peer, {}).values())

    def failing(self, admission: Admission) -> list[Stream]:
        """Streams with members that would not be let in any more."""
        return [stream for stream in self if admission.refuses(stream.member)]

    def __iter__(self) -> Iterator[Stream]:
        return iter([stream for streams in self._by_peer.values() for stream in streams.values()])


async def run_handler(handler: Handler, protocol: str, stream: Stream) -> None:
    """Run `handler`, contain whatever it raises, close the stream.

    One of the documented walls: what one peer's stream brings about ends with that stream.
    """
    try:
        await handler(protocol, stream)
    except TransportError as broken:
        log.debug("stream ended", peer=stream.peer, protocol=protocol, reason=str(broken))
    except Exception:
        log.exception("stream handler failed", peer=stream.peer, protocol=protocol)
    finally:
        with trio.CancelScope(shield=True):
            await stream.aclose()
