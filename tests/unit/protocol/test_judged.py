"""Records that the shell judges are kept, passed on and compared like any other."""

from meshsat.protocol import effects, events, spread, wire
from meshsat.protocol.effects import Effect
from meshsat.protocol.events import Judgement
from meshsat.protocol.judged import Judged
from meshsat.protocol.spread import Kind
from meshsat.protocol.sums import leaf_key
from tests.brain import Brain, gone, only, peer, sent


def met(*names: str) -> Brain:
    brain = Brain()
    brain.meet(*names)
    brain.wait(1.0, hearing=names)
    return brain


def news(*data: bytes, kind: int = Kind.STATE) -> wire.News:
    return wire.News(tuple((int(kind), one) for one in data), more=False)


def judged(
    data: bytes, judgement: Judgement, source: str | None = "a", name: str = "state"
) -> events.ItemJudged:
    told_by = None if source is None else peer(source)
    return events.ItemJudged(int(Kind.STATE), name, data, told_by, judgement, "it is no good")


def told(done: list[Effect], name: str) -> list[bytes]:
    return [data for frame in sent(done, wire.News, name) for _, data in frame.items]


def test_of_a_name_the_youngest_is_kept() -> None:
    shelf = Judged(limit=2)
    empty = shelf.sums.sum("")
    assert shelf.put("x", b"1")
    assert not shelf.put("x", b"1")
    assert shelf.put("x", b"2")
    assert shelf.get("x") == shelf.item(leaf_key("x")) == b"2"
    assert shelf.put("y", b"3")
    assert not shelf.put("z", b"4"), "no room"
    assert len(shelf) == 2
    shelf.drop("x")
    shelf.drop("y")
    shelf.drop("never there")
    assert shelf.get("x") is None
    assert shelf.sums.sum("") == empty


def test_what_is_judged_news_goes_on_to_the_others() -> None:
    brain = met("a", "b", "c")
    asked = only(brain.hear("a", news(b"new")), effects.JudgeItem)
    assert asked == [effects.JudgeItem(int(Kind.STATE), b"new", peer("a"))]
    assert not told(brain.wait(0.1), "b"), "nothing goes on before it is judged"
    brain.feed(judged(b"new", Judgement.NEWS))
    done = brain.wait(0.1)
    assert (told(done, "a"), told(done, "b"), told(done, "c")) == ([], [b"new"], [b"new"])
    assert not only(brain.hear("b", news(b"new")), effects.JudgeItem), "judged once"


def test_our_own_is_told_to_all() -> None:
    brain = met("a", "b")
    brain.feed(judged(b"mine", Judgement.NEWS, source=None))
    done = brain.wait(0.1)
    assert told(done, "a") == told(done, "b") == [b"mine"]


def test_who_tells_what_is_outdated_gets_the_younger() -> None:
    brain = met("a", "b")
    brain.feed(judged(b"new", Judgement.NEWS, source=None))
    brain.wait(0.1)
    brain.hear("a", news(b"old"))
    assert told(brain.feed(judged(b"old", Judgement.OUTDATED)), "a") == [b"new"]


def test_who_tells_what_is_wrong_is_expelled_and_what_is_known_does_no_harm() -> None:
    brain = met("a", "b")
    brain.hear("a", news(b"known"))
    assert not brain.feed(judged(b"known", Judgement.KNOWN))
    brain.hear("a", news(b"wrong"))
    (reason,) = [
        one.reason for one in only(brain.feed(judged(b"wrong", Judgement.WRONG)), effects.Disconnect)
    ]
    assert reason == "it passed on a wrong record: it is no good"
    assert gone(brain.feed(judged(b"wrong", Judgement.WRONG, source="b"))) == {
        peer("b"): "it passed on a wrong record: it is no good"
    }


def test_what_can_not_be_judged_yet_is_looked_at_again() -> None:
    brain = met("a")
    brain.hear("a", news(b"early"))
    brain.feed(judged(b"early", Judgement.LATER))
    assert not only(brain.hear("a", news(b"early")), effects.JudgeItem)
    brain.wait(spread.AGAIN + 1, hearing=("a",))
    assert only(brain.hear("a", news(b"early")), effects.JudgeItem)


def test_a_kind_of_a_later_version_is_passed_over() -> None:
    brain = met("a")
    assert not brain.hear("a", news(b"what", kind=wire.KINDS_LIMIT))
    assert not brain.hear("a", wire.Compare(((wire.KINDS_LIMIT, "", 1),)))
    assert not brain.hear("a", wire.Summary(((wire.KINDS_LIMIT, "", b""),), answer=False))


def test_two_sets_become_one() -> None:
    brain = met("a")
    brain.feed(judged(b"mine", Judgement.NEWS, source=None))
    brain.wait(0.1)
    (summary,) = sent(brain.hear("a", wire.Compare(((int(Kind.STATE), "", 1),))), wire.Summary, "a")
    assert [kind for kind, _, _ in summary.parts] == [Kind.STATE]
    assert told(brain.hear("a", wire.Summary(((int(Kind.STATE), "", b""),), answer=False)), "a") == [b"mine"]
    brain.feed(events.ItemDropped(int(Kind.STATE), "state"))
    assert not brain.hear("a", wire.Summary(((int(Kind.STATE), "", b""),), answer=False))
