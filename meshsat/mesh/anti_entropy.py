"""Gossip of records over the control plane: `/meshsat/gossip/1`.

News is pushed to every peer that we have a session with; and on connect, and then every so often with one
peer at random, both sides compare what they have: whoever joins late or missed a push is complete soon.
An exchange is three messages: a summary, what its sender lacks along with the other's summary, and what the
other lacks. A message is a 32-bit length and CBOR. Uses of join tokens go along, so that any enroller counts
what others gave. GossipSub is not used: docs/decisions/ tells why.
"""

import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from random import Random
from typing import Any

import cbor2
import structlog
import trio

from meshsat.cbor import decode_cbor_untrusted
from meshsat.errors import ConfigError, InvalidInputError
from meshsat.mesh.token_ledger import TokenLedger, TokenUse, parse_token_use_untrusted
from meshsat.mesh.transport import DialError, Stream, StreamBroken, Transport, receive_exactly
from meshsat.protocol.gossip import RECORD_LIMIT, ImageRecord, Key, open_record_untrusted
from meshsat.protocol.machine import Machine
from meshsat.trust.keys import PeerId

log = structlog.get_logger(__name__)

PROTOCOL = "/meshsat/gossip/1"
MESSAGE_LIMIT = 8 << 20
ITEMS_LIMIT = 65_536
EXCHANGE_DEADLINE = 15.0
"""Seconds for a whole exchange."""
PUSHES_AT_ONCE = 8
PUSH_QUEUE = 1024
"""Records that wait to be pushed; what does not fit spreads by the next exchange."""
PUSH_BATCH = 64
RECORDS_AT_ONCE = 4 << 20
"""Bytes of records in one message, which also carries a summary and uses; what is left follows at once."""
WRONG_LIMIT = 64
"""Wrong records in a message: some are passed on in good faith, dated by a clock that is wrong."""


class MessageError(InvalidInputError):
    """Not a message of this protocol."""


@dataclass(frozen=True, slots=True)
class Message:
    summary: dict[Key, float]
    records: list[bytes]
    """Sealed."""
    uses: list[TokenUse]


def decode_message_untrusted(data: bytes) -> Message:
    """Raises `MessageError`."""
    try:
        items = decode_cbor_untrusted(data)
    except InvalidInputError as malformed:
        raise MessageError(str(malformed)) from None
    if type(items) is not list or [type(part) for part in items] != [list, list, list]:
        raise MessageError("a message is a summary, records and uses of tokens")
    summary, records, uses = items
    if max(len(summary), len(records), len(uses)) > ITEMS_LIMIT:
        raise MessageError("too many items")
    known: dict[Key, float] = {}
    for item in summary:
        if type(item) is not list or [type(part) for part in item] != [str, str, str, float]:
            raise MessageError("an item of a summary is registry, repository, reference, time")
        if not isfinite(item[3]):
            raise MessageError("a time in a summary is none")
        known[item[0], item[1], item[2]] = item[3]
    for record in records:
        if type(record) is not bytes or len(record) > RECORD_LIMIT:
            raise MessageError("a record is a short sealed envelope")
    try:
        return Message(known, records, [parse_token_use_untrusted(use) for use in uses])
    except InvalidInputError as wrong:
        raise MessageError(str(wrong)) from None


def encode_message(
    summary: dict[Key, float], records: Sequence[bytes] = (), uses: Sequence[TokenUse] = ()
) -> bytes:
    items: list[Any] = [
        [[*key, at] for key, at in summary.items()],
        list(records),
        [asdict(use) for use in uses],
    ]
    body = cbor2.dumps(items)
    return struct.pack("!I", len(body)) + body


def _fitting(records: Iterable[ImageRecord]) -> list[bytes]:
    """As many as go into one message, sealed."""
    fitting: list[bytes] = []
    length = 0
    for record in records:
        if length + RECORD_LIMIT > RECORDS_AT_ONCE:
            break
        fitting.append(record.sealed)
        length += len(record.sealed)
    return fitting


class AntiEntropy:
    """`transport` is the control plane. `on_news` is given records that were news to us; uses of tokens are
    merged into `ledger`."""

    def __init__(
        self,
        machine: Machine,
        transport: Transport,
        unix: Callable[[], float],
        on_news: Callable[[list[ImageRecord]], Awaitable[None]],
        ledger: TokenLedger,
        rng: Random,
        interval: float,
    ) -> None:
        self._machine = machine
        self._transport = transport
        self._unix = unix
        self._on_news = on_news
        self._ledger = ledger
        self._rng = rng
        self._interval = interval
        self._news: deque[ImageRecord] = deque(maxlen=PUSH_QUEUE)
        self._met: deque[PeerId] = deque(maxlen=PUSH_QUEUE)
        self._wake = trio.Event()

    def announce(self, record: ImageRecord) -> None:
        """Push a record to all peers, soon."""
        self._news.append(record)
        self._wake.set()

    def met(self, peer: PeerId) -> None:
        """A session stands with this peer: compare with it, soon."""
        self._met.append(peer)
        self._wake.set()

    async def run(self) -> None:
        """Run until cancelled."""
        next_round = trio.current_time() + self._interval
        while True:
            if self._news:
                batch = [self._news.popleft() for _ in range(min(PUSH_BATCH, len(self._news)))]
                await self._push([record.sealed for record in batch])
            elif self._met:
                await self._exchange(self._met.popleft())
            elif trio.current_time() >= next_round:
                next_round = trio.current_time() + self._interval * self._rng.uniform(0.75, 1.25)
                peers = sorted(self._machine.sessions)
                if peers:
                    await self._exchange(self._rng.choice(peers))
            else:
                self._wake = trio.Event()
                with trio.move_on_at(next_round):
                    await self._wake.wait()

    # --- as the one who begins ---

    async def _push(self, records: list[bytes]) -> None:
        limit = trio.CapacityLimiter(PUSHES_AT_ONCE)

        async def to(peer: PeerId) -> None:
            async with limit:
                await self._with(peer, lambda stream: self._tell(stream, {}, records))

        async with trio.open_nursery() as nursery:
            for peer in sorted(self._machine.sessions):
                nursery.start_soon(to, peer)

    async def _exchange(self, peer: PeerId) -> None:
        async def compare(stream: Stream) -> None:
            await self._tell(stream, self._machine.records.summary())
            heard = await self._hear(stream)
            await self._take(stream.peer, heard)
            news = _fitting(self._machine.records.news_for(heard.summary))
            await self._tell(stream, {}, news, self._ledger.records())

        await self._with(peer, compare)

    async def _with(self, peer: PeerId, talk: Callable[[Stream], Awaitable[None]]) -> None:
        session = self._machine.sessions.get(peer)
        known = self._machine.membership.known.get(peer)
        addresses = (
            session.control if session is not None and session.control else known.control if known else ()
        )
        if not addresses:
            return
        try:
            with trio.fail_after(EXCHANGE_DEADLINE):
                stream = await self._transport.open_stream(peer, addresses, PROTOCOL, EXCHANGE_DEADLINE)
                try:
                    await talk(stream)
                    await stream.receive_some(1)  # until the other side is done with what we told
                finally:
                    await stream.aclose()
        except (DialError, StreamBroken, MessageError, trio.TooSlowError) as failed:
            log.debug("gossip failed", peer=peer, problem=str(failed))

    # --- as the one who is asked ---

    async def handle(self, stream: Stream) -> None:
        """Answer one exchange or push."""
        try:
            with trio.fail_after(EXCHANGE_DEADLINE):
                heard = await self._hear(stream)
                await self._take(stream.peer, heard)
                if not heard.records:  # not a push
                    news = _fitting(self._machine.records.news_for(heard.summary))
                    await self._tell(stream, self._machine.records.summary(), news, self._ledger.records())
                    await self._take(stream.peer, await self._hear(stream))
        except (StreamBroken, MessageError, trio.TooSlowError) as failed:
            log.debug("gossip failed", peer=stream.peer, problem=str(failed))

    async def _take(self, peer: PeerId, heard: Message) -> None:
        if heard.uses and self._ledger.merge(heard.uses, self._unix()):
            await self._save_uses()
        news = self._machine.take_records(await self._opened(peer, heard.records))
        if news:
            await self._on_news(news)
            if sum(map(len, heard.records)) + RECORD_LIMIT > RECORDS_AT_ONCE:
                self.met(peer)  # that was not all it has for us

    async def _opened(self, peer: PeerId, sealed: Sequence[bytes]) -> list[ImageRecord]:
        """Those that are right. Raises `MessageError` where too many are not."""
        records: list[ImageRecord] = []
        wrong: list[str] = []
        for one in sealed:
            await trio.lowlevel.checkpoint()  # ten thousand signatures take a second
            try:
                records.append(open_record_untrusted(one, self._unix()))
            except InvalidInputError as problem:
                wrong.append(str(problem))
            if len(wrong) > WRONG_LIMIT:
                break
        if wrong:
            log.warning("gossip brought wrong records", peer=peer, number=len(wrong), problem=wrong[0])
        if len(wrong) > WRONG_LIMIT:
            raise MessageError(wrong[0])
        return records

    async def _save_uses(self) -> None:
        try:
            await self._ledger.save()
        except ConfigError as full:
            log.warning("uses of join tokens are not kept over a restart", problem=str(full))

    async def _tell(
        self,
        stream: Stream,
        summary: dict[Key, float],
        records: Sequence[bytes] = (),
        uses: Sequence[TokenUse] = (),
    ) -> None:
        await stream.send_all(encode_message(summary, records, uses))

    async def _hear(self, stream: Stream) -> Message:
        (length,) = struct.unpack("!I", await receive_exactly(stream, 4))
        if length > MESSAGE_LIMIT:
            raise MessageError(f"a message of {length} bytes")
        return decode_message_untrusted(await receive_exactly(stream, length))
