from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from meshsat.chunking.cut import SEGMENT
from meshsat.limits import Gate
from meshsat.oci.digest import Digest
from meshsat.protocol import effects, events, lease, wire
from meshsat.protocol.events import Fault, Priority
from meshsat.protocol.runs import DRAIN, MISMATCH, PERMANENT, RUN_SEGMENTS, RUNS, mismatch_backoff
from meshsat.trust.keys import PeerId
from tests.brain import SOURCE, Blob, Brain, led_by, only, peer, runs, segments, sent
from tests.room import Room


def leaders(blob: Blob, *names: str) -> list[str]:
    """Who has the lease of each segment."""
    found = {peer(name): name for name in names}
    holders = [
        lease.holder(lease.segment_lease(str(blob.digest), segment), dict.fromkeys(found, 1.0))
        for segment in range(blob.cut.segments)
    ]
    return [found[holder] for holder in holders if holder is not None]


def split(pattern: str, **names: str) -> Blob:
    """A blob whose segments are led as the letters say."""
    for number in range(5000):
        blob = segments(f"blob {number}", len(pattern))
        if leaders(blob, *names.values()) == [names[letter] for letter in pattern]:
            return blob
    raise AssertionError("no such blob")


# --- whose turn it is ---


def test_the_first_seconds_are_for_peers_to_turn_up() -> None:
    brain = Brain(uplink=True, settle=3.0)
    assert not runs(brain.pull(led_by("me", [])))
    assert not runs(brain.wait(2.8))
    assert runs(brain.wait(0.5)) == [(0, 4)]


def test_what_nobody_holds_is_fetched_in_one_run() -> None:
    blob = segments("blob", 3)
    done = Brain(uplink=True).pull(blob)
    assert only(done, effects.FetchUplink) == [
        effects.FetchUplink(blob.digest, blob.size, 0, blob.cut.count, (SOURCE,))
    ]


def test_what_a_peer_holds_is_not_fetched() -> None:
    blob = led_by("me", [], chunks=6)
    brain = Brain(uplink=True)
    brain.meet("a")
    brain.hear("a", blob.have(0, 1, 4))
    brain.feed(blob.wanted())
    brain.hear("a", blob.have(0, 1, 4), blob.entries("a", 0, 2), blob.entries("a", 4, 5))
    assert runs(brain.feed(brain.opened(blob))) == [(2, 4)]


def test_without_a_source_there_is_nowhere_to_fetch_from() -> None:
    blob = Blob()
    brain = Brain(uplink=True)
    done = brain.feed(events.BlobWanted(blob.digest, blob.size, (), Priority.PULL), brain.opened(blob))
    assert not runs(done)
    assert runs(brain.feed(blob.wanted())) == [(0, 4)]


def test_only_the_leader_fetches() -> None:
    mine, theirs = led_by("me", ["u"]), led_by("u", ["me"])
    brain = Brain(uplink=True)
    brain.meet("u", uplink=True)
    assert runs(brain.pull(mine)) == [(0, 4)]
    assert not runs(brain.pull(theirs))


def test_the_leader_fetches_what_a_dark_node_wants() -> None:
    blob = led_by("me", ["u"])
    brain = Brain(uplink=True)
    brain.meet("u", uplink=True)
    brain.meet("dark")
    done = brain.hear("dark", blob.want())
    assert only(done, effects.OpenTransfer) == [effects.OpenTransfer(blob.digest, blob.size)]
    assert sent(done, wire.Want, "dark") == [blob.want(Priority.FOLLOW)]
    assert runs(brain.feed(brain.opened(blob))) == [(0, 4)]


def test_the_others_do_nothing_about_it() -> None:
    brain = Brain(uplink=True)
    brain.meet("u", uplink=True)
    brain.meet("dark")
    assert brain.hear("dark", led_by("u", ["me"]).want()) == []


def test_nobody_helps_to_what_only_a_helper_wants() -> None:
    brain = Brain(uplink=True)
    brain.meet("dark")
    assert brain.hear("dark", led_by("me", []).want(Priority.FOLLOW)) == []


@pytest.mark.parametrize("how", ["closes", "says so"])
def test_the_next_takes_over_when_the_leader_is_gone(how: str) -> None:
    blob = led_by("u", ["me"])
    brain = Brain(uplink=True)
    brain.meet("u", uplink=True)
    brain.meet("dark")
    brain.hear("dark", blob.want())
    done = brain.leave("u") if how == "closes" else brain.hear("u", wire.Uplink(up=False))
    assert only(done, effects.OpenTransfer)
    assert runs(brain.feed(brain.opened(blob))) == [(0, 4)]


def test_a_taker_over_goes_on_where_the_leader_ended() -> None:
    blob = led_by("u", ["me"], chunks=8)
    brain = Brain(uplink=True)
    brain.meet("u", uplink=True)
    brain.meet("a")
    brain.pull(blob)
    brain.hear("u", blob.have(0, 1, 2), blob.entries("u", 0, 3))
    brain.hear("a", blob.have(0, 1, 2))
    assert runs(brain.leave("u")) == [(3, 8)]


def test_a_silent_leader_is_replaced_within_five_seconds() -> None:
    blob = led_by("u", ["me"])
    brain = Brain(uplink=True)
    brain.meet("u", uplink=True)
    brain.pull(blob)
    began = brain.now
    while True:
        done = brain.wait(0.1)
        if any(isinstance(effect, effects.Disconnect) for effect in done):
            done += brain.leave("u")
        if runs(done):
            break
    assert brain.now - began < 5


def test_two_uplinks_share_the_segments() -> None:
    room = Room(["u", "v", "a"], uplinks=["u", "v"])
    blob = room.add(split("xyxy", x="u", y="v"))
    room.uplink_rate = room.upload_rate = 8
    room.introduce()
    room.feed("a", blob.wanted())
    room.run(150)
    assert all(room.holds(name, blob) for name in ("u", "v", "a"))
    assert sorted(index for _, index in room.brought) == list(range(blob.cut.count))
    per_segment = SEGMENT // blob.cut.chunk_length
    first = {name: next(index for who, index in room.brought if who == name) for name in ("u", "v")}
    assert first == {"u": 0, "v": per_segment}  # each begins with its own
    shares = Counter(name for name, _ in room.brought)
    assert abs(shares["u"] - shares["v"]) < 0.1 * blob.cut.count


def test_a_run_ends_before_a_segment_led_by_another() -> None:
    blob = split("mmum", m="me", u="u")
    brain = Brain(uplink=True)
    brain.meet("u", uplink=True)
    assert runs(brain.pull(blob)) == [(0, 128)]


def test_a_run_stops_where_the_rest_came_another_way() -> None:
    blob = led_by("me", [], chunks=4)
    brain = Brain(uplink=True)
    brain.pull(blob)
    brain.meet("a")
    brain.hear("a", blob.have(3), blob.entries("a", 3))
    brain.feed(blob.stored(3, "a"))
    brain.feed(blob.stored(0), blob.stored(1))
    done = brain.feed(blob.stored(2))
    assert only(done, effects.CancelUplink) == [effects.CancelUplink(blob.digest)]
    assert only(done, effects.Publish) == [effects.Publish(blob.digest)]


def test_few_blobs_come_at_once_and_the_urgent_first() -> None:
    brain = Brain(uplink=True)
    blobs = [Blob(f"blob {number}") for number in range(RUNS + 2)]
    for blob in blobs[:RUNS]:
        assert runs(brain.pull(blob))
    assert not runs(brain.pull(blobs[-2], priority=Priority.BACKGROUND))
    assert not runs(brain.pull(blobs[-1]))
    done = brain.feed(events.UplinkEnded(blobs[0].digest, Fault.NOT_FOUND, "no"))
    assert [effect.blob for effect in only(done, effects.FetchUplink)] == [blobs[-1].digest]


# --- readers ---


def test_a_run_turns_to_where_a_reader_is() -> None:
    blob = Blob("big", chunks=400)
    brain = Brain(uplink=True)
    assert runs(brain.pull(blob)) == [(0, 400)]
    done = brain.feed(events.ReaderMoved(blob.digest, 1, 300 * blob.cut.chunk_length))
    assert only(done, effects.CancelUplink)
    assert runs(done) == [(300, 400)]
    for index in range(300, 400):
        brain.feed(blob.stored(index))
    assert runs(brain.feed(events.UplinkEnded(blob.digest, None))) == [(0, 300)]  # and then the rest


def test_a_run_that_is_about_to_reach_the_reader_goes_on() -> None:
    blob = Blob("big", chunks=400)
    brain = Brain(uplink=True)
    brain.pull(blob)
    for index in range(100):
        done = brain.feed(blob.stored(index))
        done += brain.feed(events.ReaderMoved(blob.digest, 1, (index + 5) * blob.cut.chunk_length))
        assert not only(done, effects.CancelUplink)


def test_a_reader_in_a_segment_led_by_another_is_no_reason_to_stop() -> None:
    blob = split("um", m="me", u="u")
    brain = Brain(uplink=True)
    brain.meet("u", uplink=True)
    assert runs(brain.pull(blob)) == [(64, 128)]
    done = brain.feed(events.ReaderMoved(blob.digest, 1, 0))
    for index in range(1, 20):
        brain.hear("u", blob.have(index - 1))
        done += brain.feed(events.ReaderMoved(blob.digest, 1, index * blob.cut.chunk_length))
    assert not only(done, effects.CancelUplink)


def test_a_reader_elsewhere_at_the_site_is_heard() -> None:
    blob = Blob("big", chunks=400)
    brain = Brain(uplink=True)
    brain.meet("dark")
    brain.hear("dark", blob.want())
    assert runs(brain.feed(brain.opened(blob))) == [(0, 400)]
    done = brain.hear("dark", blob.want(Priority.READER, first=300))
    assert runs(done) == [(300, 400)]


# --- faults ---


def ended(blob: Blob, fault: Fault, retry_after: float | None = None) -> events.UplinkEnded:
    return events.UplinkEnded(blob.digest, fault, "upstream said no", retry_after)


def test_not_found_is_told_to_all_who_wait_and_believed_for_a_while() -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.meet("dark")
    brain.hear("dark", blob.want())
    brain.feed(brain.opened(blob))
    done = brain.feed(ended(blob, Fault.NOT_FOUND))
    assert sent(done, wire.Failed, "dark") == [wire.Failed(blob.digest, Fault.NOT_FOUND, "upstream said no")]
    assert only(done, effects.CloseTransfer)
    again = brain.hear("dark", blob.want()) + brain.wait(PERMANENT - 1, hearing=["dark"])
    assert not only(again, effects.OpenTransfer)
    assert len(only(brain.wait(2, hearing=["dark"]), effects.OpenTransfer)) == 1


@pytest.mark.parametrize("fault", [Fault.NOT_FOUND, Fault.DENIED])
def test_what_this_node_wants_itself_is_not_retried_for_a_minute(fault: Fault) -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.pull(blob)
    done = brain.feed(ended(blob, fault))
    assert only(done, effects.TellFailed) == [effects.TellFailed(blob.digest, fault, "upstream said no")]
    assert not runs(brain.wait(PERMANENT - 1))
    assert runs(brain.wait(2)) == [(0, 4)]


def test_an_uplink_that_fails_leaves_its_leases_to_others() -> None:
    room = Room(["u", "v", "a"], uplinks=["u", "v"])
    blob = room.add(led_by("u", ["v"], chunks=8))
    room.introduce()
    room.feed("a", blob.wanted())
    room.run(34)
    assert {name for name, _ in room.brought} == {"u"}
    room.feed("u", ended(blob, Fault.UNAVAILABLE))
    room._runs.clear()
    room.run(30)
    assert room.holds("a", blob)
    assert sorted(index for _, index in room.brought) == list(range(8))


def test_what_the_leader_is_denied_another_uplink_may_have() -> None:
    """The puller has an uplink of its own: it does not wait for ever for a leader that can not."""
    blob = led_by("u", ["me"])
    brain = Brain(uplink=True)
    brain.meet("u", uplink=True)
    assert not runs(brain.pull(blob))
    done = brain.hear("u", wire.Failed(blob.digest, Fault.DENIED, "who are you"))
    assert runs(done) == [(0, 4)]
    done = brain.feed(ended(blob, Fault.NOT_FOUND))
    assert [effect.fault for effect in only(done, effects.TellFailed)] == [Fault.NOT_FOUND]


def test_a_dark_node_is_told_what_the_leader_says_and_nobody_elses_word() -> None:
    blob = led_by("u", ["v"])
    brain = Brain()
    brain.meet("u", "v", uplink=True)
    brain.meet("dark")
    brain.pull(blob)
    for name in ("v", "dark"):
        assert not brain.hear(name, wire.Failed(blob.digest, Fault.NOT_FOUND, "no"))
    [told] = only(brain.hear("u", wire.Failed(blob.digest, Fault.NOT_FOUND, "no")), effects.TellFailed)
    assert (told.fault, told.message) == (Fault.NOT_FOUND, "u: no")


def test_wrong_upstreams_are_tried_ever_more_rarely() -> None:
    waits: Sequence[float] = [mismatch_backoff(count) for count in (1, 2, 3, 99)]
    assert waits == [15, 30, 60, MISMATCH[1]]


# --- cost ---


def test_an_uplink_that_is_down_counts_no_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A want of a tebibyte has 65536 of them, and a peer may have thousands of wants."""
    calls = []
    monkeypatch.setattr(lease, "holder", lambda *args: calls.append(args))
    monkeypatch.setattr(lease, "segment_lease", lambda *args: calls.append(args))
    brain = Brain()
    brain.meet("u", uplink=True)
    brain.meet("a")
    brain.hear("a", Blob().want(size=wire.BLOB_LIMIT))
    brain.tick()
    assert len(calls) == 0


def test_a_run_is_bounded_and_the_next_follows() -> None:
    blob = Blob("huge", 4096)
    brain = Brain(uplink=True)
    brain.meet("a")
    size = 200 * 64 * SEGMENT
    brain.hear("a", blob.want(size=size))
    [(start, stop)] = runs(brain.feed(events.TransferOpened(blob.digest)))
    chunk = brain.transfer(blob).cut.chunk_length
    assert (start, stop * chunk) == (0, RUN_SEGMENTS * SEGMENT)


def test_a_want_of_a_tebibyte_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    holder = lease.holder

    def counted(name: str, candidates: Mapping[PeerId, float]) -> PeerId | None:
        calls.append(name)
        return holder(name, candidates)

    monkeypatch.setattr(lease, "holder", counted)
    brain = Brain(uplink=True)
    brain.meet("a")
    brain.hear("a", Blob().want(size=wire.BLOB_LIMIT))
    brain.feed(events.TransferOpened(Blob().digest))
    brain.tick()
    assert 0 < len(calls) < 2 * RUN_SEGMENTS


# --- beside other uplinks ---


def lease_of(blob: Blob, first: int, stop: int, brought: int = 0) -> wire.Lease:
    return wire.Lease(blob.digest, first, stop, brought)


def beside(blob: Blob, *names: str) -> Brain:
    """A node with an uplink that pulls the blob, among others with one."""
    brain = Brain(uplink=True)
    brain.meet(*(names or ("u",)), uplink=True)
    brain.pull(blob)
    return brain


def test_a_run_is_told_when_it_begins_each_second_and_when_it_ends() -> None:
    blob = led_by("me", ["u"], chunks=8)
    brain = Brain(uplink=True)
    brain.meet("u", uplink=True)
    brain.meet("dark")
    begun = brain.pull(blob)
    assert sent(begun, wire.Lease) == sent(begun, wire.Lease, "u") == [lease_of(blob, 0, 8)]
    brain.feed(events.UplinkProgressed(blob.digest, 1000))
    assert sent(brain.wait(1.05), wire.Lease, "u") == [lease_of(blob, 0, 8, 1000)]
    over = brain.feed(events.UplinkEnded(blob.digest, None))
    assert sent(over, wire.Lease, "u")[0] == lease_of(blob, 0, 0, 1000)


def test_whose_uplink_comes_is_told_of_our_runs() -> None:
    blob = led_by("me", ["u"], chunks=8)
    brain = Brain(uplink=True)
    brain.meet("u")
    brain.pull(blob)
    assert sent(brain.hear("u", wire.Uplink(up=True)), wire.Lease, "u") == [lease_of(blob, 0, 8)]


def test_what_a_peer_is_bringing_is_not_fetched() -> None:
    blob = split("mm", m="me", u="u")
    brain = Brain(uplink=True)
    brain.meet("u", uplink=True)
    brain.feed(blob.wanted())
    brain.hear("u", lease_of(blob, 0, 70))
    assert runs(brain.feed(brain.opened(blob))) == [(70, 128)]


def test_an_idle_uplink_takes_the_back_of_what_another_is_bringing() -> None:
    blob = split("uu", m="me", u="u")
    brain = beside(blob)
    assert runs(brain.hear("u", lease_of(blob, 0, 128))) == [(64, 128)]


def test_the_faster_one_takes_more_of_it() -> None:
    blob = split("uu", m="me", u="u")
    brain = Brain(uplink=True)
    brain.meet("u", uplink=True)
    brain.hear("u", wire.Uplink(up=True, rate=1_000_000))
    brain.machine._uplinks.rate = 3e6
    brain.feed(blob.wanted())
    brain.hear("u", lease_of(blob, 0, 128))
    brain.hear("u", *(blob.have(index) for index in range(8)))
    assert runs(brain.feed(brain.opened(blob))) == [(38, 128)]


def test_a_run_whose_back_another_takes_ends_there() -> None:
    blob = split("mm", m="me", u="u")
    brain = beside(blob)
    done = brain.hear("u", lease_of(blob, 64, 128))
    assert only(done, effects.TrimUplink) == [effects.TrimUplink(blob.digest, 64)]
    assert sent(done, wire.Lease, "u") == [lease_of(blob, 0, 64)]
    done = [effect for index in range(64) for effect in brain.feed(blob.stored(index))]
    assert only(done, effects.CancelUplink) == [effects.CancelUplink(blob.digest)]


def test_of_two_that_begin_at_one_place_one_stays() -> None:
    blob = split("mm", m="me", u="u")
    stays = []
    for me, other in (("me", "u"), ("u", "me")):
        brain = Brain(me, uplink=True)
        brain.pull(blob)
        brain.meet(other, uplink=True)
        stays.append(not only(brain.hear(other, lease_of(blob, 0, 128)), effects.CancelUplink))
    assert sorted(stays) == [False, True]


def test_a_peer_behind_us_is_no_reason_to_stop() -> None:
    blob = split("um", m="me", u="u")
    brain = beside(blob)
    done = brain.hear("u", lease_of(blob, 0, 128))
    assert not only(done, effects.CancelUplink)
    assert not only(done, effects.TrimUplink)


def test_a_run_stops_at_what_a_peer_has_meanwhile() -> None:
    blob = split("mm", m="me", u="u")
    brain = beside(blob)
    brain.hear("u", blob.have(3, 4, 5))
    done = [effect for index in range(3) for effect in brain.feed(blob.stored(index))]
    assert only(done, effects.CancelUplink)
    assert runs(done) == [(6, 128)]


def test_a_run_without_a_byte_is_left_to_another() -> None:
    blob = split("mm", m="me", u="u")
    brain = beside(blob)
    assert not only(brain.wait(2.5, hearing=["u"]), effects.CancelUplink)
    done = brain.wait(1, hearing=["u"])
    assert only(done, effects.CancelUplink) == [effects.CancelUplink(blob.digest)]
    assert sent(done, wire.Uplink, "u") == [wire.Uplink(up=False)]
    assert not runs(brain.wait(7, hearing=["u"]))  # nor does it come back at once


def test_an_uplink_that_is_alone_is_patient() -> None:
    brain = Brain(uplink=True)
    brain.pull(Blob())
    assert not only(brain.wait(30), effects.CancelUplink)


def test_a_slow_run_goes_on() -> None:
    blob = split("mm", m="me", u="u")
    brain = beside(blob)
    done = []
    for _ in range(10):
        done += brain.feed(events.UplinkProgressed(blob.digest, 100)) + brain.wait(2, hearing=["u"])
    assert not only(done, effects.CancelUplink)


def test_what_a_silent_member_should_fetch_is_begun_by_an_idle_one() -> None:
    blob = led_by("u", ["me"], chunks=8)
    brain = beside(blob)
    assert runs(brain.wait(2, hearing=["u"])) == [(0, 8)]


# --- whose turn it is among the blobs ---


def test_a_reader_anywhere_comes_before_what_nobody_waits_for() -> None:
    brain = Brain(uplink=True)
    brain.meet("dark")
    for number in range(RUNS):
        brain.pull(Blob(f"background {number}"), priority=Priority.BACKGROUND)
    urgent = Blob("urgent")
    brain.hear("dark", urgent.want(Priority.READER))
    done = brain.feed(brain.opened(urgent))
    assert [effect.blob for effect in only(done, effects.FetchUplink)] == [urgent.digest]
    (trimmed,) = only(done, effects.TrimUplink)
    assert trimmed.stop == 1, "the chunk in hand is brought to its end, and paid for once"
    assert not only(done, effects.CancelUplink)


def test_what_makes_way_ends_with_the_chunk_in_hand_and_goes_on_later() -> None:
    brain = Brain(uplink=True)
    backgrounds = [Blob(f"background {number}") for number in range(RUNS)]
    for blob in backgrounds:
        brain.pull(blob, priority=Priority.BACKGROUND)
    urgent = [Blob(f"urgent {number}") for number in range(2 * RUNS)]
    done = [effect for blob in urgent for effect in brain.pull(blob)]
    started = [effect.blob for effect in only(done, effects.FetchUplink)]
    assert started == [blob.digest for blob in urgent[:RUNS]], (
        "each takes a place, and no more than there are"
    )
    one = backgrounds[0]
    assert only(brain.feed(one.stored(0)), effects.CancelUplink) == [effects.CancelUplink(one.digest)]
    for blob in urgent:
        for index in range(4):
            brain.feed(blob.stored(index))
        brain.feed(events.UplinkEnded(blob.digest, None), blob.published())
    assert one.digest in brain.machine._runs._running


def test_a_blob_of_one_chunk_is_not_cut_off_for_what_is_more_urgent() -> None:
    brain = Brain(uplink=True)
    for number in range(RUNS):
        brain.pull(Blob(f"background {number}", chunks=1), priority=Priority.BACKGROUND)
    done = brain.pull(Blob("urgent"), priority=Priority.READER)
    assert only(done, effects.FetchUplink)
    assert not only(done, effects.CancelUplink)


def test_chunks_that_take_long_are_cut_off() -> None:
    brain = Brain(uplink=True)
    large = [
        brain.feed(
            events.BlobWanted(Digest.of(b"%d" % number), 40 << 30, (SOURCE,), Priority.BACKGROUND),
            events.TransferOpened(Digest.of(b"%d" % number), ()),
        )
        for number in range(RUNS)
    ]
    assert all(only(done, effects.FetchUplink) for done in large)
    done = brain.pull(Blob("urgent"), priority=Priority.READER)
    assert len(only(done, effects.CancelUplink)) == 1


def test_of_equals_who_got_least_is_next() -> None:
    brain = Brain(uplink=True)
    brain.meet("greedy", "modest")
    blobs = [Blob(f"{number}") for number in range(RUNS + 3)]
    for blob in blobs:
        brain.hear("greedy", blob.want())
        brain.feed(brain.opened(blob))
    late = Blob("late")
    brain.hear("modest", late.want())
    brain.feed(brain.opened(late))
    done = brain.feed(events.UplinkEnded(blobs[0].digest, Fault.NOT_FOUND, "no"))
    assert [effect.blob for effect in only(done, effects.FetchUplink)] == [late.digest]


def test_an_upstream_that_asks_for_patience_gets_it_and_the_uplink_stays_up() -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.pull(blob)
    brain.feed(ended(blob, Fault.UNAVAILABLE, 30.0))
    assert brain.machine.uplink_up
    assert brain.transfer(blob).problem == "upstream said no"
    assert not runs(brain.wait(29))
    assert runs(brain.wait(2)) == [(0, 4)]
    brain.feed(blob.stored(0))
    assert not brain.transfer(blob).problem


# --- what this node's limits let pass ---

SHUT = events.UplinkGated(Gate.SHUT, "the quota of the day is spent")
URGENT = events.UplinkGated(Gate.URGENT, "no window is open")
OPEN = events.UplinkGated(Gate.OPEN)


def test_what_is_under_way_ends_with_the_chunk_in_hand_and_others_hear_at_once() -> None:
    blob = led_by("me", ["u"], chunks=8)
    brain = Brain(uplink=True)
    brain.meet("u", uplink=True)
    brain.pull(blob)
    brain.feed(blob.stored(0), blob.stored(1))
    done = brain.feed(SHUT)
    assert sent(done, wire.Uplink, "u") == [wire.Uplink(up=False)]
    assert only(done, effects.TrimUplink) == [effects.TrimUplink(blob.digest, 3)]
    assert not only(done, effects.CancelUplink)
    assert only(done, effects.TellFailed) == [
        effects.TellFailed(blob.digest, Fault.UNAVAILABLE, "the quota of the day is spent")
    ]
    done = brain.feed(blob.stored(2), events.UplinkEnded(blob.digest, None))
    done += brain.wait(1.0)
    assert not runs(done)


def test_what_does_not_end_in_time_is_cut_off() -> None:
    blob = led_by("me", [], chunks=8)
    brain = Brain(uplink=True)
    brain.pull(blob)
    brain.feed(SHUT)
    assert not only(brain.wait(DRAIN - 0.2), effects.CancelUplink)
    assert only(brain.wait(0.4), effects.CancelUplink)


def test_shut_it_is_not_probed_and_open_it_is_probed_once_and_goes_on() -> None:
    blob = led_by("me", [], chunks=8)
    brain = Brain(uplink=True)
    brain.pull(blob)
    brain.feed(SHUT, events.UplinkEnded(blob.digest, None))
    done = brain.wait(600)
    assert not only(done, effects.ProbeUplink)
    assert not runs(done)
    done = brain.feed(events.UplinkProbed(up=True)) + brain.wait(5)
    assert not runs(done), "a probe that was under way opens nothing"
    done = brain.feed(OPEN) + brain.wait(0.2)
    assert len(only(done, effects.ProbeUplink)) == 1
    assert runs(brain.feed(events.UplinkProbed(up=True)) + brain.wait(0.2)) == [(0, 8)]


def test_outside_windows_only_what_a_client_reads_is_fetched() -> None:
    wanted, read, asked = (Blob(name) for name in ("wanted", "read", "asked"))
    brain = Brain(uplink=True)
    brain.meet("dark")
    done = brain.feed(URGENT)
    assert not sent(done, wire.Uplink, "dark"), "it works, for some"
    assert not runs(brain.pull(wanted))
    assert runs(brain.feed(read.wanted(Priority.READER), brain.opened(read))) == [(0, 4)]
    brain.hear("dark", asked.want(Priority.READER))
    assert runs(brain.feed(brain.opened(asked))) == [(0, 4)]
    assert runs(brain.feed(OPEN) + brain.wait(0.2)) == [(0, 4)]


def test_manifests_pass_outside_windows_as_well() -> None:
    blob = Blob()
    brain = Brain(uplink=True)
    brain.feed(URGENT)
    source = (*SOURCE[:2], True)
    happened = (events.BlobWanted(blob.digest, blob.size, (source,), Priority.PULL), brain.opened(blob))
    assert runs(brain.feed(*happened)) == [(0, 4)]


def test_when_the_client_leaves_outside_windows_its_blob_ends_with_the_chunk_in_hand() -> None:
    blob = Blob()
    brain = Brain(uplink=True)
    brain.feed(URGENT, blob.wanted(Priority.PULL), blob.wanted(Priority.READER), brain.opened(blob))
    done = brain.feed(events.BlobUnwanted(blob.digest, Priority.READER)) + brain.wait(0.2)
    assert only(done, effects.TrimUplink) == [effects.TrimUplink(blob.digest, 1)]
