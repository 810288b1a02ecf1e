import pytest

from meshsat.protocol.session import FRAME_RATE, PIPELINE, PIPELINE_BYTES, SNUB, STALL, Session
from tests.brain import Blob, peer

BLOB = Blob().digest
CHUNK = 1 << 18


def session_with(*asked: int, now: float = 10.0) -> Session:
    session = Session(peer("a"), now, greeted=True, last_heard=now, frame_credit_at=now)
    for index in asked:
        session.ask(BLOB, index, CHUNK, now)
    return session


def test_a_peer_that_has_not_greeted_is_asked_for_nothing() -> None:
    assert Session(peer("a"), 0.0).room(CHUNK, 0.0) == 0


def test_of_unknown_rate_two_chunks_are_asked() -> None:
    assert session_with().room(CHUNK, 10.0) == 2
    assert session_with(0).room(CHUNK, 10.0) == 1
    assert session_with(0, 1).room(CHUNK, 10.0) == 0


def test_the_pipeline_grows_with_the_rate() -> None:
    session = session_with()
    session.rate = 16 * CHUNK / PIPELINE
    assert session.room(CHUNK, 10.0) == 16
    session.rate = 1e12
    assert session.room(CHUNK, 10.0) == PIPELINE_BYTES[1] // CHUNK
    assert session.room(1000, 10.0) == 64


def test_the_rate_is_measured_from_chunk_to_chunk() -> None:
    session = session_with(0, 1)
    assert session.delivered(BLOB, 0, 11.0)
    assert session.rate == CHUNK
    assert session.delivered(BLOB, 1, 11.5)
    assert CHUNK < session.rate < 2 * CHUNK
    assert session.asked_bytes == 0


def test_what_was_not_asked_for_is_not_delivered() -> None:
    session = session_with(0)
    assert not session.delivered(BLOB, 7, 11.0)
    assert session.rate == 0
    assert session.asked_bytes == CHUNK


def test_nothing_asked_nothing_stalled() -> None:
    assert not session_with().stalled(1e9)


@pytest.mark.parametrize(
    ("rate", "patience"),
    [(0.0, STALL), (CHUNK / 0.5, 2.0), (CHUNK * 100.0, 1.0), (CHUNK / 100, 10.0)],
)
def test_patience_is_what_the_rate_explains(rate: float, patience: float) -> None:
    session = session_with(0)
    session.rate = rate
    assert not session.stalled(10.0 + patience)
    assert session.stalled(10.0 + patience + 0.01)


def test_bytes_on_their_way_are_no_stall() -> None:
    session = session_with(0)
    session.last_progress = 12.0
    assert not session.stalled(10.0 + STALL + 1)
    assert session.stalled(12.0 + STALL + 0.01)


def test_a_stalled_peer_is_left_alone_twice_as_long_each_time() -> None:
    session = session_with()
    for wait in (2.0, 4.0, 8.0):
        session.snub(10.0)
        assert session.room(CHUNK, 10.0 + wait - 0.01) == 0
        assert session.room(CHUNK, 10.0 + wait) == 1  # one to try it
    for _ in range(20):
        session.snub(10.0)
    assert session.snubbed_until == 10.0 + SNUB[1]


def test_a_chunk_ends_the_doubt() -> None:
    session = session_with()
    session.snub(10.0)
    session.ask(BLOB, 0, CHUNK, 13.0)
    session.delivered(BLOB, 0, 13.5)
    assert session.stalls == 0
    assert session.room(CHUNK, 13.5) == 2


def test_bursts_of_frames_are_allowed_and_floods_are_not() -> None:
    session = session_with()
    burst = int(FRAME_RATE * 5)
    assert all(session.spend_frame(10.0) for _ in range(burst))
    assert not session.spend_frame(10.0)
    assert session.spend_frame(10.0 + 2 / FRAME_RATE)


def test_credit_does_not_pile_up() -> None:
    session = session_with()
    session.spend_frame(1e6)
    assert session.frame_credit == FRAME_RATE * 5 - 1
