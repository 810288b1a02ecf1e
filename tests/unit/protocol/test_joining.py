from collections import deque

import pytest

from meshsat.protocol import joining, wire
from tests.brain import SOURCE, Blob

A, B = Blob("a"), Blob("b")
OTHER = ("other.example", "library/pos", False)


def joined(*frames: wire.Frame) -> list[wire.Frame]:
    queue, out = deque(frames), []
    while queue:
        out.append(joining.next_frame(queue))
    return out


def test_neighbours_of_a_kind_become_one() -> None:
    assert joined(A.want(), B.want()) == [wire.Want((*A.want().blobs, *B.want().blobs), (SOURCE,))]
    held = ((A.digest, A.size), (B.digest, B.size))
    assert joined(A.holds(), B.holds()) == [wire.Holds(held)]
    assert joined(wire.Unwant((A.digest,)), wire.Unwant((B.digest,))) == [wire.Unwant((A.digest, B.digest))]
    assert joined(A.have(0), A.have(3), A.have(1)) == [A.have(0, 1, 3)]


def test_the_order_between_kinds_and_blobs_stays() -> None:
    for frames in (
        [A.holds(), wire.Ping(1), B.holds()],
        [A.have(0), B.have(0), A.have(1)],
        [A.want(), B.want(sources=(OTHER,)), A.want()],
        [A.want(), wire.Unwant((A.digest,)), A.want()],
        [wire.Ping(1), wire.Ping(2)],
    ):
        assert joined(*frames) == frames


def test_no_frame_grows_beyond_what_a_peer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LIST_LIMIT", 2)
    assert joined(*[A.holds()] * 5) == [wire.Holds(A.holds().blobs * count) for count in (2, 2, 1)]


def test_a_queue_of_wants_costs_one_frame() -> None:
    wants = [Blob(f"{number}").want() for number in range(1000)]
    (whole,) = joined(*wants)
    assert isinstance(whole, wire.Want)
    assert whole.blobs == tuple(want.blobs[0] for want in wants)
