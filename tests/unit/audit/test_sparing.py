from meshsat.audit.event import Actor, Outcome
from meshsat.audit.sparing import LINES, MEMORY, QUIET, Sparing
from tests.recorded import Recorded


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def tell(sparing: Sparing, address: str, outcome: Outcome = "failure") -> None:
    sparing.record("user.login", actor=Actor("client", "", address), object="registry", outcome=outcome)


def test_the_same_is_recorded_once_an_hour_and_how_often_it_was() -> None:
    audit, clock = Recorded(), Clock()
    sparing = Sparing(audit, clock)
    for _ in range(10):
        tell(sparing, "a")
    tell(sparing, "a", "success")
    assert len(audit.of("user.login")) == 2
    clock.now = QUIET
    tell(sparing, "a")
    assert len(audit.of("user.login")) == 3
    (spared,) = audit.of("audit.spare")
    assert spared.reason.startswith("9 more")
    assert spared.object == "user.login"


def test_a_flood_from_everywhere_is_bounded_and_hides_nothing_of_another_kind() -> None:
    audit, clock = Recorded(), Clock()
    sparing = Sparing(audit, clock)
    for number in range(5000):
        tell(sparing, f"address {number}")
    assert len(audit.entries) == LINES
    tell(sparing, "a", "success")
    assert audit.entries[-1].outcome == "success"
    assert len(sparing._told) <= MEMORY
    clock.now = QUIET
    tell(sparing, "b")
    assert [entry.reason for entry in audit.of("audit.spare")] == [
        f"{5000 - LINES} more like it were not recorded before this"
    ]


def test_successes_can_be_recorded_in_any_case() -> None:
    audit = Recorded()
    sparing = Sparing(audit, Clock(), failures_only=True)
    for _ in range(3):
        tell(sparing, "a", "success")
        tell(sparing, "a")
    assert [entry.outcome for entry in audit.entries] == ["success", "failure", "success", "success"]
