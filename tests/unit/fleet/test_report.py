"""Reports travel as they were sealed; the youngest of a node counts; a lie costs whoever passes it on."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.fleet.report import (
    BURST,
    FAULT_LIMIT,
    IMAGES_TOLD,
    RATE,
    REPORT_LIMIT,
    Mark,
    Report,
    Reports,
    Stage,
    open_report_untrusted,
    prefix_of,
    seal_report,
)
from meshsat.oci.digest import Digest
from meshsat.protocol.events import Judgement
from meshsat.protocol.wire import ITEM_LIMIT
from tests.brain import key, peer

MARKS = st.builds(
    Mark, st.sampled_from(Stage), st.booleans(), st.binary(min_size=4, max_size=4), st.integers(0, 100)
)
REPORTS = st.builds(
    Report,
    st.just(peer("a")),
    st.integers(0, 1 << 60),
    st.integers(0, 1 << 60),
    st.one_of(st.just(b""), st.binary(min_size=8, max_size=8)),
    st.lists(st.text(max_size=8), max_size=3).map(tuple),
    st.one_of(st.none(), st.integers(0, 1 << 50)),
    st.lists(MARKS, max_size=5).map(tuple),
    st.lists(st.tuples(st.integers(0, 99), st.text(max_size=20)), max_size=4).map(tuple),
)


def report(at: int = 1, name: str = "a", **words: object) -> Report:
    return Report(peer(name), at, 7, b"8 bytes!", **words)  # type: ignore[arg-type]


def sealed(one: Report, by: str = "a") -> bytes:
    return seal_report(key(by), one)


@given(REPORTS)
def test_what_is_sealed_is_opened(one: Report) -> None:
    data = sealed(one)
    assert open_report_untrusted(data) == replace(one, sealed=data)


def test_the_longest_report_fits_into_a_frame() -> None:
    longest = report(
        at=(1 << 62) - 1,
        room=(1 << 62) - 1,
        roles=("r" * 64,) * 4,
        marks=(Mark(Stage.FETCHING, active=True, target=b"\xff" * 4, percent=99),) * IMAGES_TOLD,
        faults=((IMAGES_TOLD - 1, "x" * FAULT_LIMIT),) * 4,
    )
    assert len(sealed(longest)) <= REPORT_LIMIT <= ITEM_LIMIT
    assert open_report_untrusted(sealed(longest)).marks == longest.marks


@pytest.mark.parametrize(
    "wrong",
    [
        report(at=-1),
        report(room=-5),
        report(marks=(Mark(percent=101),)),
        report(marks=(Mark(target=b"12345"),)),
        report(roles=("r" * 65,)),
        report(roles=("r",) * 17),
        report(faults=((1, "x" * (FAULT_LIMIT + 1)),)),
        report(faults=((-1, "x"),)),
        report(faults=((0, "x"),) * 5),
        replace(report(), state=b"short"),
        report(marks=(Mark(),) * (IMAGES_TOLD + 1)),
    ],
)
def test_a_report_out_of_bounds_is_refused(wrong: Report) -> None:
    with pytest.raises(InvalidInputError):
        open_report_untrusted(sealed(wrong))


def test_a_report_is_its_authors_word_and_nobody_elses() -> None:
    data = bytearray(sealed(report()))
    data[-1] ^= 1
    with pytest.raises(InvalidInputError):
        open_report_untrusted(bytes(data))
    with pytest.raises(InvalidInputError, match="too large"):
        open_report_untrusted(bytes(REPORT_LIMIT + 1))


class Told:
    def __init__(self, *members: str) -> None:
        self.members = {peer(name) for name in members}
        self.now = 0.0
        self.reports = Reports(peer("me"), lambda one: one in self.members, lambda: self.now)
        self.news = 0
        self.reports.on_news = self._count

    def _count(self) -> None:
        self.news += 1

    def hear(self, one: Report, by: str = "a") -> Judgement:
        return self.reports.judge(sealed(one, by), peer("source")).judgement


def test_of_one_node_the_youngest_counts() -> None:
    told = Told("a")
    assert told.hear(report(5)) is Judgement.NEWS
    assert told.hear(report(5)) is Judgement.KNOWN
    assert told.hear(report(4)) is Judgement.OUTDATED
    assert told.hear(report(6)) is Judgement.NEWS
    known = told.reports.get(peer("a"))
    assert known is not None
    assert (known.at, told.news) == (6, 2)


def test_a_strangers_report_waits_and_a_malformed_one_is_wrong() -> None:
    told = Told()
    assert told.hear(report()) is Judgement.LATER
    assert told.reports.judge(b"x", peer("source")).judgement is Judgement.WRONG
    assert not list(told.reports)


def test_who_is_no_member_any_more_is_forgotten() -> None:
    told = Told("a", "b")
    told.hear(report())
    told.hear(report(name="b"), by="b")
    told.reports.put(report(name="me"))
    told.members.discard(peer("a"))
    assert told.reports.forget_strangers() == [peer("a")]
    assert [one.peer for one in told.reports] == [peer("b"), peer("me")]


def test_our_own_report_of_before_our_clock_was_set_back_is_outdone() -> None:
    told = Told()
    assert told.hear(report(50, name="me", roles=("x",)), by="me") is Judgement.KNOWN
    assert (told.reports.before, told.news) == (50, 1)
    assert told.reports.get(peer("me")) is None


def test_a_flood_of_reports_of_one_node_is_not_passed_on_and_holds_up_nobody_else() -> None:
    told = Told("a", "b")
    judged = [told.hear(report(at)) for at in range(200)]
    assert judged.count(Judgement.NEWS) == BURST
    assert judged[-1] is Judgement.LATER
    assert told.hear(report(name="b"), by="b") is Judgement.NEWS
    told.now = 10.0
    judged = [told.hear(report(at)) for at in range(200, 400)]
    assert judged.count(Judgement.NEWS) == 10 * RATE


def test_a_mark_is_of_one_digest() -> None:
    one, other = Digest.of(b"1"), Digest.of(b"2")
    assert Mark(target=prefix_of(one)).is_of(one)
    assert not Mark(target=prefix_of(one)).is_of(other)
