from typing import Any, get_args

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsat.protocol import effects, trace
from meshsat.protocol.effects import Effect
from meshsat.protocol.events import Event, SessionClosed, TimerExpired
from meshsat.protocol.machine import Settings
from meshsat.protocol.trace import (
    CUT,
    ENTRY_LIMIT,
    LENGTH,
    MAGIC,
    OPEN,
    Addressed,
    EffectsHash,
    Ended,
    Entry,
    Happened,
    Learned,
    Started,
    TraceError,
    decode_untrusted,
    encode,
)
from tests.brain import peer
from tests.happenings import EFFECT, EFFECTS, EVENTS, a_record

STARTED = Started("1.2.3", b"seed", Settings(peer("me"), "me", uplink=True))
HASH = b"\1\2\3\4\5\6"


def whole(*entries: Entry) -> bytes:
    return b"".join(map(encode, (STARTED, *entries)))


def framed(*row: Any) -> bytes:
    body = cbor2.dumps(list(row))
    return LENGTH.pack(len(body)) + body


def test_every_event_and_effect_is_tried() -> None:
    assert set(EVENTS) == set(get_args(Event))
    assert set(EFFECTS) == set(get_args(Effect))


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_every_event_comes_back_as_it_was(kind: type) -> None:
    @settings(max_examples=15)
    @given(EVENTS[kind], st.floats(allow_nan=False, allow_infinity=False))
    def check(event: Event, at: float) -> None:
        happened = Happened(at, event, HASH)
        assert list(decode_untrusted(whole(happened))) == [STARTED, happened, OPEN]

    check()


def test_all_kinds_of_entries_come_back_as_they_were() -> None:
    entries: list[Entry] = [
        Addressed(("10.0.0.1:4701",), ("10.0.0.1:4702", "10.1.0.1:4702")),
        Learned((a_record("42"), a_record("43"))),
        Happened(1.5, TimerExpired(), b""),
        Happened(1.5, TimerExpired(), HASH, (b"s" * 64, b"t" * 64)),
        Ended("over"),
    ]
    assert list(decode_untrusted(whole(*entries))) == [STARTED, *entries]


@pytest.mark.parametrize("lost", [1, 3, 7, 20])
def test_a_trace_that_was_cut_short_is_good_up_to_there(lost: int) -> None:
    happened = [Happened(float(at), SessionClosed(peer("a")), HASH) for at in range(3)]
    assert list(decode_untrusted(whole(*happened)[:-lost])) == [STARTED, *happened[:2], CUT]


def test_nothing_behind_a_whole_entry_is_a_trace_without_an_end() -> None:
    assert list(decode_untrusted(whole())) == [STARTED, OPEN]
    assert list(decode_untrusted(whole() + b"\0")) == [STARTED, CUT]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a trace"),
        (b"{}", "not a trace"),
        (MAGIC, "no first entry"),
        (MAGIC + encode(Ended("x")), "settings stand first"),
        (whole() + encode(STARTED)[len(MAGIC) :], "settings stand first"),
        (whole(Ended("x")) + b"x", "more follows"),
        (whole() + LENGTH.pack(ENTRY_LIMIT + 1), "over the limit"),
        (whole() + LENGTH.pack(1) + b"\xff", "entry 1 of the trace: not plain CBOR"),
        (whole() + framed(), "no known kind"),
        (whole() + framed("x"), "no known kind"),
        (whole() + framed(9), "no known kind"),
        (whole() + framed(1, 0.0, 999, [], HASH, b""), "no known kind"),
        (whole() + framed(1, 0.0, -1, [], HASH, b""), "no known kind"),
        (whole() + framed(1, float("inf"), 0, [], HASH, b""), "no time"),
        (whole() + framed(1, float("nan"), 0, [], HASH, b""), "no time"),
        (whole() + framed(1, 0.0, 0, [], HASH, b""), "fields"),
        (whole() + framed(1, 0.0, 0, [], HASH), "wrong fields"),
        (whole() + framed(1, 0.0, 1, [peer("a")], HASH, b"short"), "64 bytes"),
        (whole() + framed(1, 0.0, 1, [peer("a")], b"short", b""), "6 bytes"),
        (whole() + framed(2, [[], ["x", 1]]), "a str is missing"),
    ],
)
def test_what_is_no_trace_is_refused_and_where(data: bytes, says: str) -> None:
    with pytest.raises(TraceError, match=says):
        list(decode_untrusted(data))


def test_a_trace_of_other_events_names_the_version_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    data = whole()
    monkeypatch.setattr(trace, "_SCHEMA", b"another!")
    with pytest.raises(TraceError, match=r"meshsat 1\.2\.3 recorded it.*replay it with the version"):
        list(decode_untrusted(data))


# --- the hash of effects ---


@given(EFFECT, EFFECT)
def test_the_hash_tells_effects_and_their_order_apart(one: Effect, other: Effect) -> None:
    def of(*done: Effect) -> bytes:
        return EffectsHash().add(done)

    assert of(one) == of(one)
    assert of() == EffectsHash().value
    if one != other and not (isinstance(one, effects.Send) and isinstance(other, effects.Send)):
        assert len({of(), of(one), of(other), of(one, other), of(other, one)}) == 5


def test_the_hash_runs_on() -> None:
    running = EffectsHash()
    first = running.add([effects.ProbeUplink()])
    second = running.add([effects.ProbeUplink()])
    assert first != second
    assert running.add([]) == second
