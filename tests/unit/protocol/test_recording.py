import random
from itertools import pairwise

import pytest

from meshsat.protocol import events
from meshsat.protocol.machine import Machine, Settings
from meshsat.protocol.recording import RECORDS_AT_ONCE, RecordedMachine
from meshsat.protocol.trace import Addressed, EffectsHash, Entry, Happened, Learned, Started
from tests.brain import Blob, key, peer
from tests.happenings import a_record

SETTINGS = Settings(peer("me"), "me", uplink=True, settle=0.0)


class Recorded:
    def __init__(self, room: int = 1000) -> None:
        self.entries: list[Entry] = []
        self._room = room
        rng = random.Random(b"seed")
        self.machine = RecordedMachine(
            SETTINGS, key("me").sign, rng, self.tell, seed=b"seed", version="1.2.3"
        )

    def tell(self, entry: Entry) -> bool:
        self.entries.append(entry)
        return len(self.entries) < self._room


def story(blob: Blob) -> list[events.Event]:
    return [
        events.SessionOpened(peer("a"), dialled=True),
        blob.wanted(),
        events.TransferOpened(blob.digest),
        events.TimerExpired(),
        blob.stored(0),
    ]


def test_a_recorded_machine_does_what_any_other_does_and_tells_it() -> None:
    recorded, blob = Recorded(), Blob()
    signed: list[bytes] = []

    def sign(message: bytes) -> bytes:
        signed.append(key("me").sign(message))
        return signed[-1]

    plain = Machine(SETTINGS, sign, random.Random(b"seed"))
    plain.addresses = recorded.machine.addresses = (("x:1",), ("y:2",))
    hashed = EffectsHash()
    assert recorded.entries == [Started("1.2.3", b"seed", SETTINGS)]
    for at, event in enumerate(story(blob), start=1):
        signed.clear()
        done = recorded.machine.handle(event, float(at))
        assert done == plain.handle(event, float(at))
        assert recorded.entries[-1] == Happened(float(at), event, hashed.add(done), tuple(signed))
    assert any(entry.signatures for entry in recorded.entries if isinstance(entry, Happened))
    hashes = [entry.effects for entry in recorded.entries if isinstance(entry, Happened)]
    assert any(one != other for one, other in pairwise(hashes)), "it did nothing"


def test_addresses_are_told_before_the_event_that_finds_them_and_once() -> None:
    recorded = Recorded()
    recorded.machine.addresses = (("x:1",), ("y:2",))
    for at in (1.0, 2.0):
        recorded.machine.handle(events.TimerExpired(), at)
    assert [type(entry) for entry in recorded.entries] == [Started, Addressed, Happened, Happened]
    assert recorded.entries[1] == Addressed(("x:1",), ("y:2",))


def test_records_are_told_in_portions() -> None:
    recorded = Recorded()
    records = [a_record("1")] * (RECORDS_AT_ONCE + 1)
    assert recorded.machine.take_records(records) == records[:1]
    lengths = [len(entry.records) for entry in recorded.entries if isinstance(entry, Learned)]
    assert lengths == [RECORDS_AT_ONCE, 1]


def test_the_event_that_breaks_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded()

    def broken(_now: float) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(recorded.machine, "_tick", broken)
    with pytest.raises(ZeroDivisionError):
        recorded.machine.handle(events.TimerExpired(), 1.0)
    assert recorded.entries[-1] == Happened(1.0, events.TimerExpired(), b"")


def test_a_full_trace_is_left_alone() -> None:
    recorded = Recorded(room=2)
    for at in (1.0, 2.0, 3.0):
        recorded.machine.handle(events.TimerExpired(), at)
    assert recorded.machine.take_records([a_record("1")])
    assert len(recorded.entries) == 2
