"""A machine that tells a trace all that it is given, and a hash of all that it does.

Laws: everything is told in the order in which it came, an event that broke the machine included; and a
recorded machine does what any other would. What the key signs is told as well: the machine sends and hashes
it. When the trace takes no more, recording costs nothing any longer.
"""

from collections.abc import Callable

from meshsat.protocol.effects import Effect
from meshsat.protocol.events import Event
from meshsat.protocol.gossip import ImageRecord
from meshsat.protocol.machine import Machine, Settings
from meshsat.protocol.rng import Rng
from meshsat.protocol.trace import Addressed, EffectsHash, Entry, Happened, Learned, Started

RECORDS_AT_ONCE = 256
"""In one entry."""
Tell = Callable[[Entry], bool]
"""Takes an entry into the trace; says whether the trace takes more."""


class RecordedMachine(Machine):
    """`rng` is `random.Random(seed)`, and nobody else's: the trace names the seed."""

    def __init__(
        self,
        settings: Settings,
        sign: Callable[[bytes], bytes],
        rng: Rng,
        tell: Tell,
        *,
        seed: bytes,
        version: str,
    ) -> None:
        super().__init__(settings, self._sign, rng)
        self._key = sign
        self._signed: list[bytes] = []
        self._tell: Tell = tell
        self._hash = EffectsHash()
        self._told = self.addresses
        self._recording = tell(Started(version, seed, settings))

    def handle(self, event: Event, now: float) -> list[Effect]:
        if not self._recording:
            return super().handle(event, now)
        if self.addresses != self._told:
            self._told = self.addresses
            self._tell(Addressed(*self.addresses))
        try:
            done = super().handle(event, now)
        except BaseException:
            self._recording = self._tell(Happened(now, event, b"", self._take_signed()))
            raise
        self._recording = self._tell(Happened(now, event, self._hash.add(done), self._take_signed()))
        return done

    def _sign(self, message: bytes) -> bytes:
        signature = self._key(message)
        if self._recording:
            self._signed.append(signature)
        return signature

    def _take_signed(self) -> tuple[bytes, ...]:
        signed, self._signed = tuple(self._signed), []
        return signed

    def take_records(self, records: list[ImageRecord]) -> list[ImageRecord]:
        for first in range(0, len(records), RECORDS_AT_ONCE):
            if self._recording:
                self._recording = self._tell(Learned(tuple(records[first : first + RECORDS_AT_ONCE])))
        return super().take_records(records)
