from dataclasses import replace

import pytest

from meshsat.oci.digest import Digest
from meshsat.protocol import effects, events, lease, resolve, wire
from meshsat.protocol.effects import Effect
from meshsat.protocol.events import Fault
from meshsat.protocol.gossip import ImageRecord, seal
from meshsat.protocol.resolve import ANSWER_DEADLINE, TOGETHER
from tests.brain import UNIX, Brain, gone, key, only, peer, sent

KEY = ("up.example", "library/pos", "42")
WANTED = events.ReferenceWanted(*KEY, 0.0)
ASKED = wire.Resolve(*KEY, 0.0)


def record(
    brain: Brain, author: str = "u", *, age: float = 0.0, reference: str = "42", name: str = "m"
) -> ImageRecord:
    return seal(
        key(author),
        registry=KEY[0],
        repository=KEY[1],
        reference=reference,
        media_type="application/json",
        digest=Digest.of(name.encode()),
        size=7,
        resolved_at=UNIX + brain.now - age,
    )


def answer(found: ImageRecord | None, fault: Fault | int = 0, message: str = "") -> wire.Resolved:
    return wire.Resolved(*KEY, b"" if found is None else found.sealed, int(fault), message)


def told(done: list[Effect]) -> list[tuple[ImageRecord | None, Fault | None]]:
    return [(effect.record, effect.fault) for effect in only(done, effects.TellResolved)]


def ranked(*names: str) -> list[str]:
    """The leader of the reference first, then who comes after it."""
    left, order = list(names), []
    while left:
        first = lease.holder(lease.reference_lease(*KEY), {peer(name): 1.0 for name in left})
        order.append(next(name for name in left if peer(name) == first))
        left.remove(order[-1])
    return order


def asks(done: list[Effect]) -> list[str]:
    """Who was asked, in order; "upstream" is our own uplink."""
    names = {peer(name): name for name in ("u", "v", "w")}
    return [
        "upstream" if isinstance(effect, effects.ResolveUpstream) else names[effect.peer]
        for effect in done
        if isinstance(effect, effects.ResolveUpstream)
        or (isinstance(effect, effects.Send) and isinstance(effect.frame, wire.Resolve))
    ]


def test_a_dark_node_asks_the_one_with_an_uplink() -> None:
    brain = Brain()
    brain.meet("u", uplink=True)
    brain.meet("dark")
    done = brain.feed(WANTED)
    assert sent(done, wire.Resolve, "u") == [ASKED]
    found = record(brain)
    done = brain.hear("u", answer(found))
    assert told(done) == [(found, None)]
    assert brain.machine.records.get(KEY) == found


def test_without_an_uplink_the_answer_is_quick() -> None:
    brain = Brain()
    brain.meet("dark")
    assert told(brain.feed(WANTED)) == [(None, Fault.UNAVAILABLE)]


def test_a_young_record_is_answer_enough() -> None:
    brain = Brain(uplink=True)
    young = record(brain, age=10)
    brain.machine.records.merge(young)
    assert told(brain.feed(events.ReferenceWanted(*KEY, 10.0))) == [(young, None)]
    assert asks(brain.feed(events.ReferenceWanted(*KEY, 9.0))) == ["upstream"]


def test_a_record_from_ahead_of_our_clock_is_not_taken_for_fresh() -> None:
    """A machine without a battery for its clock: its own time says nothing about how old a record is."""
    brain = Brain(uplink=True)
    brain.machine.records.merge(record(brain, age=-86400))
    assert asks(brain.feed(events.ReferenceWanted(*KEY, 60.0))) == ["upstream"]


def test_several_askers_cause_one_question() -> None:
    brain = Brain(uplink=True)
    brain.meet("a", "b")
    done = brain.hear("a", ASKED) + brain.hear("b", ASKED) + brain.feed(WANTED) + brain.hear("a", ASKED)
    assert asks(done) == ["upstream"]
    found = record(brain, "me")
    done = brain.feed(events.UpstreamAnswered(*KEY, found))
    assert sent(done, wire.Resolved, "a") == sent(done, wire.Resolved, "b") == [answer(found)]
    assert told(done) == [(found, None)]
    assert only(done, effects.TellRecord) == [effects.TellRecord(found)]


def test_whoever_asks_a_moment_later_has_the_same_answer() -> None:
    brain = Brain(uplink=True)
    brain.meet("a")
    brain.hear("a", ASKED)
    found = record(brain, "me")
    brain.feed(events.UpstreamAnswered(*KEY, found))
    brain.now += 1
    done = brain.hear("a", ASKED)
    assert sent(done, wire.Resolved, "a") == [answer(found)]
    brain.now += TOGETHER
    assert asks(brain.hear("a", ASKED)) == ["upstream"]


def test_only_the_leader_asks_upstream() -> None:
    first, *_ = ranked("me", "u", "v")
    brain = Brain(uplink=True)
    brain.meet("u", "v", uplink=True)
    assert asks(brain.feed(WANTED)) == ["upstream" if first == "me" else first]


def test_the_next_is_asked_when_no_answer_comes() -> None:
    order = ranked("u", "v", "w")
    brain = Brain()
    brain.meet("u", "v", "w", uplink=True)
    assert asks(brain.feed(WANTED)) == [order[0]]
    assert asks(brain.wait(ANSWER_DEADLINE - 0.1, hearing=order)) == []
    assert asks(brain.wait(0.2, hearing=order)) == [order[1]]
    assert asks(brain.wait(ANSWER_DEADLINE + 0.1, hearing=order)) == [order[2]]
    done = brain.wait(ANSWER_DEADLINE + 0.1, hearing=order)
    assert told(done) == [(None, Fault.UNAVAILABLE)]
    assert not brain.machine._resolver.busy


def test_the_next_is_asked_when_the_one_asked_goes_away() -> None:
    order = ranked("u", "v")
    brain = Brain()
    brain.meet("u", "v", uplink=True)
    brain.feed(WANTED)
    assert asks(brain.leave(order[0])) == [order[1]]


@pytest.mark.parametrize("fault", [Fault.DENIED, Fault.UNAVAILABLE, 77])
def test_the_next_is_asked_when_the_one_asked_can_not_tell(fault: int) -> None:
    order = ranked("u", "v")
    brain = Brain()
    brain.meet("u", "v", uplink=True)
    brain.feed(WANTED)
    assert asks(brain.hear(order[0], answer(None, fault, "no"))) == [order[1]]
    [tell] = only(brain.hear(order[1], answer(None, Fault.DENIED, "nor here")), effects.TellResolved)
    assert (tell.fault, tell.message) == (Fault.DENIED, f"{order[1]}: nor here")


def test_not_found_is_an_answer() -> None:
    brain = Brain()
    brain.meet("u", "v", uplink=True)
    [asked] = asks(brain.feed(WANTED))
    assert told(brain.hear(asked, answer(None, Fault.NOT_FOUND))) == [(None, Fault.NOT_FOUND)]


def test_not_found_is_remembered_for_a_moment() -> None:
    brain = Brain(uplink=True)
    brain.meet("a")
    brain.hear("a", ASKED)
    done = brain.feed(events.UpstreamAnswered(*KEY, None, Fault.NOT_FOUND, "no such tag"))
    assert sent(done, wire.Resolved, "a") == [answer(None, Fault.NOT_FOUND, "no such tag")]
    done = brain.hear("a", ASKED)
    assert asks(done) == []
    assert sent(done, wire.Resolved, "a") == [answer(None, Fault.NOT_FOUND, "no such tag")]
    assert told(brain.feed(WANTED)) == [(None, Fault.NOT_FOUND)]
    brain.now += 5.0
    assert asks(brain.hear("a", ASKED)) == ["upstream"]


def test_how_long_not_found_is_remembered_is_a_setting() -> None:
    for age, upstream in ((0.0, ["upstream"]), (60.0, [])):
        brain = Brain(uplink=True, negative_age=age)
        brain.meet("a")
        brain.hear("a", ASKED)
        brain.feed(events.UpstreamAnswered(*KEY, None, Fault.NOT_FOUND, "no such tag"))
        brain.now += 30.0
        assert asks(brain.hear("a", ASKED)) == upstream


def test_an_uplink_that_fails_is_told_to_be_down() -> None:
    brain = Brain(uplink=True)
    brain.meet("a")
    brain.feed(WANTED)
    done = brain.feed(events.UpstreamAnswered(*KEY, None, Fault.UNAVAILABLE, "no route"))
    assert sent(done, wire.Uplink, "a") == [wire.Uplink(up=False)]
    assert told(done) == [(None, Fault.UNAVAILABLE)]
    done = brain.hear("a", ASKED)
    assert sent(done, wire.Resolved)[0].fault == Fault.UNAVAILABLE


def test_a_denial_is_no_fault_of_the_uplink() -> None:
    brain = Brain(uplink=True)
    brain.meet("a")
    brain.feed(WANTED)
    done = brain.feed(events.UpstreamAnswered(*KEY, None, Fault.DENIED, "who are you"))
    assert not sent(done, wire.Uplink)


# --- answers that are none ---


def test_only_the_one_asked_may_answer() -> None:
    order = ranked("u", "v")
    brain = Brain()
    brain.meet("u", "v", uplink=True)
    brain.feed(WANTED)
    assert brain.hear(order[1], answer(record(brain, order[1]))) == []
    assert brain.hear("u", replace(answer(record(brain)), reference="43")) == []
    brain.leave(order[0])
    brain.meet(order[0], uplink=True)
    assert brain.hear(order[0], answer(record(brain, order[0]))) == []  # too late, v is asked now
    assert brain.machine._resolver.busy


def test_an_answer_to_something_else_is_none() -> None:
    order = ranked("u", "v")
    brain = Brain()
    brain.meet("u", "v", uplink=True)
    brain.feed(WANTED)
    done = brain.hear(order[0], answer(record(brain, reference="43")))
    assert asks(done) == [order[1]]


def test_a_forged_answer_costs_the_session_and_is_asked_for_elsewhere() -> None:
    order = ranked("u", "v")
    brain = Brain()
    brain.meet("u", "v", uplink=True)
    brain.feed(WANTED)
    sealed = record(brain).sealed
    forged = sealed[:-1] + bytes([sealed[-1] ^ 1])
    done = brain.hear(order[0], wire.Resolved(*KEY, forged, 0, ""))
    assert "wrong image record" in gone(done)[peer(order[0])]
    assert asks(done) == [order[1]]


def test_an_answer_from_the_future_is_a_matter_of_clocks_and_no_crime() -> None:
    """A node without a battery for its clock wakes up long ago; it must not cut itself off."""
    brain = Brain()
    brain.meet("u", uplink=True)
    brain.feed(WANTED)
    done = brain.hear("u", answer(record(brain, age=-86400)))
    assert not gone(done)
    [tell] = only(done, effects.TellResolved)
    assert tell.fault is Fault.UNAVAILABLE
    assert "clock" in tell.message


def test_a_late_fault_of_our_own_uplink_is_not_held_against_the_one_asked_since() -> None:
    brain = Brain(uplink=True)
    other = next(name for name in ("u", "v", "w") if ranked("me", name)[0] == "me")
    brain.meet(other, uplink=True)
    assert asks(brain.feed(WANTED)) == ["upstream"]
    assert asks(brain.wait(ANSWER_DEADLINE + 0.1, hearing=[other])) == [other]
    done = brain.feed(events.UpstreamAnswered(*KEY, None, Fault.DENIED, "late"))
    assert told(done) == []
    found = record(brain, other)
    assert told(brain.hear(other, answer(found))) == [(found, None)]


def test_two_that_ask_each_other_do_not_wait_for_each_other() -> None:
    """Each believes the other to lead, since its own uplink was denied a moment ago."""
    brain = Brain(uplink=True)
    other = next(name for name in ("u", "v", "w") if ranked("me", name)[0] == "me")
    brain.meet(other, uplink=True)
    brain.feed(WANTED)
    assert asks(brain.feed(events.UpstreamAnswered(*KEY, None, Fault.DENIED, "no"))) == [other]
    assert asks(brain.hear(other, ASKED)) == ["upstream"]


# --- bounds ---


def test_questions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "LOOKUPS_LIMIT", 3)
    brain = Brain(uplink=True)
    brain.meet("a")
    for number in range(3):
        assert asks(brain.hear("a", replace(ASKED, reference=str(number)))) == ["upstream"]
    done = brain.hear("a", replace(ASKED, reference="3"))
    assert [frame.fault for frame in sent(done, wire.Resolved)] == [Fault.UNAVAILABLE]
    assert asks(done) == []


def test_whoever_left_is_told_nothing() -> None:
    brain = Brain(uplink=True)
    brain.meet("a", "b")
    brain.hear("a", ASKED)
    brain.hear("b", ASKED)
    brain.leave("a")
    done = brain.feed(events.UpstreamAnswered(*KEY, record(brain, "me")))
    assert len(sent(done, wire.Resolved, "b")) == 1
    assert not sent(done, wire.Resolved, "a")


def test_a_long_message_fits_the_frame() -> None:
    brain = Brain(uplink=True)
    brain.meet("a")
    brain.hear("a", ASKED)
    done = brain.feed(events.UpstreamAnswered(*KEY, None, Fault.DENIED, "x" * 5000))
    [frame] = sent(done, wire.Resolved)
    assert wire.decode_header_untrusted(wire.encode(frame)[8:]) == frame


def test_whoever_joins_a_question_asked_for_a_peer_waits_no_longer_than_others() -> None:
    brain = Brain(uplink=True)
    brain.meet("a")
    brain.hear("a", ASKED)
    assert asks(brain.feed(WANTED)) == []
    assert told(brain.wait(ANSWER_DEADLINE + 0.2, hearing=["a"])) == [(None, Fault.UNAVAILABLE)]
