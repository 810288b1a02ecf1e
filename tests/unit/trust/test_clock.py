"""Every law of `trust/clock.py`, each with the clock game that it answers."""

from hypothesis import given
from hypothesis import strategies as st

from meshsat.trust.clock import TOLERANCE, Clock, Floors, Source
from meshsat.trust.keys import PeerId
from meshsat.trust.passes import DAY

NOW = 1_800_000_000.0
HORIZON = NOW + 100 * DAY
PEERS = [PeerId(f"peer{number}") for number in range(9)]


class Machine:
    """A clock on a machine of which a test says everything."""

    def __init__(self, wall: float, floors: Floors | None = None, horizon: float = HORIZON) -> None:
        self.wall = wall
        self.up = 50.0
        self.clock = Clock(lambda: self.wall, lambda: self.up, floors or Floors(NOW - DAY, 0.0), horizon)

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.up += seconds

    def told(self, *clocks: float) -> None:
        for peer, shown in zip(PEERS, clocks, strict=False):
            self.clock.told(peer, shown - self.up)


def test_a_clock_in_order_is_believed() -> None:
    machine = Machine(NOW)
    reading = machine.clock.read()
    assert (reading.now, reading.source, reading.problem) == (NOW, Source.MACHINE, None)
    assert reading.confirmed
    assert reading.latest == float("inf")


def test_in_1970_time_is_the_floor_and_goes_on() -> None:
    machine = Machine(0.0, Floors(NOW - 9 * DAY, NOW - DAY))
    machine.wait(60)
    reading = machine.clock.read()
    assert (reading.now, reading.source) == (NOW - DAY + 60, Source.FLOOR)
    assert not reading.confirmed
    assert "1970-01-01" in (reading.problem or "")


def test_beyond_the_end_of_our_own_pass_a_clock_is_not_believed() -> None:
    machine = Machine(HORIZON + DAY)
    reading = machine.clock.read()
    assert (reading.now, reading.source) == (NOW - DAY, Source.FLOOR)
    assert "join again" in (reading.problem or "")
    machine.told(HORIZON + DAY, HORIZON + DAY)
    assert machine.clock.read().now == HORIZON + DAY  # others say so too: the pass has run out


def test_ahead_within_our_pass_it_is_corrected_by_members_that_agree() -> None:
    machine = Machine(NOW + 50 * DAY)
    assert machine.clock.now() == NOW + 50 * DAY
    machine.told(NOW, NOW + 20)
    reading = machine.clock.read()
    assert (reading.now, reading.source) == (NOW, Source.MEMBERS)
    assert "believed" in (reading.problem or "")
    assert reading.latest == NOW


def test_one_member_moves_nothing_however_much_it_tells() -> None:
    for lie in (0.0, NOW - 50 * DAY, NOW + 50 * DAY, 1e12):
        machine = Machine(NOW)
        machine.told(lie)
        assert machine.clock.now() == NOW
        machine.told(lie, NOW, NOW)
        assert machine.clock.now() == NOW
        broken = Machine(0.0)
        broken.told(lie)
        assert broken.clock.now() == NOW - DAY


def test_half_of_the_members_are_too_few() -> None:
    machine = Machine(NOW)
    machine.told(NOW + 50 * DAY, NOW + 50 * DAY, NOW, NOW)
    assert machine.clock.now() == NOW
    machine.clock.forget(PEERS[3])
    assert machine.clock.now() == NOW + 50 * DAY  # two of three: what collusion can do, docs/security.md


def test_two_that_agree_among_many_that_do_not_are_too_few() -> None:
    machine = Machine(NOW)
    machine.told(*(NOW + days * DAY for days in (50, 50, 60, 70)))
    assert machine.clock.agreed() is None
    assert machine.clock.now() == NOW


def test_no_members_bring_time_below_the_signed_floor_nor_beyond_the_horizon() -> None:
    for lie in (0.0, NOW - 2 * DAY, HORIZON + 1):
        machine = Machine(NOW)
        machine.told(lie, lie, lie)
        assert machine.clock.now() == NOW


def test_a_floor_from_a_clock_that_was_ahead_is_lowered_by_members_and_kept_so() -> None:
    machine = Machine(NOW, Floors(NOW - 9 * DAY, NOW + 50 * DAY))
    assert machine.clock.now() == NOW + 50 * DAY
    machine.told(NOW, NOW, NOW)
    assert machine.clock.now() == NOW
    machine.clock.ran()
    for peer in PEERS[:3]:
        machine.clock.forget(peer)
    assert machine.clock.now() == NOW
    assert machine.clock.floors.ran == NOW


def test_what_is_kept_goes_on_over_reboots_in_1970() -> None:
    floors = Floors(NOW - DAY, NOW)
    for _ in range(3):
        machine = Machine(0.0, floors)
        machine.wait(3600)
        machine.clock.ran()  # not in order: notes nothing of its own
        floors = machine.clock.floors
    assert floors.ran == NOW + 3 * 3600


def test_a_clock_in_order_is_noted_and_never_one_that_is_not() -> None:
    machine = Machine(NOW)
    machine.clock.ran()
    assert machine.clock.floors.ran == NOW
    machine.wall = HORIZON + 5 * DAY
    machine.clock.ran()
    assert machine.clock.floors.ran == NOW


def test_a_signed_date_moves_the_floor_only_where_the_clock_is_out_of_order() -> None:
    right = Machine(NOW)
    right.clock.signed(NOW + 40 * DAY)
    assert right.clock.now() == NOW
    broken = Machine(0.0)
    broken.clock.signed(NOW + 40 * DAY)
    assert broken.clock.now() == NOW + 40 * DAY
    broken.clock.signed(HORIZON + 1)  # one wrong date must not end our own pass
    broken.clock.signed(1e12)
    assert broken.clock.now() == NOW + 40 * DAY
    broken.clock.issued(NOW + 50 * DAY)
    assert broken.clock.now() == NOW + 50 * DAY


def test_votes_are_bounded() -> None:
    machine = Machine(NOW)
    for number in range(3000):
        machine.clock.told(PeerId(f"sybil{number}"), NOW - machine.up)
    assert len(machine.clock.voters()) == 1024


times = st.floats(0, 4e9)


@given(
    wall=times,
    signed=times,
    ran=times,
    horizon=times,
    votes=st.lists(times, max_size=6),
    waits=st.lists(st.floats(0, 1e7), max_size=4),
)
def test_time_never_goes_below_the_signed_floor(
    wall: float, signed: float, ran: float, horizon: float, votes: list[float], waits: list[float]
) -> None:
    machine = Machine(wall, Floors(signed, ran), horizon)
    machine.told(*votes)
    passed = 0.0
    for wait in waits:
        machine.wait(wait)
        passed += wait
        machine.clock.ran()
        assert machine.clock.now() >= signed + passed - TOLERANCE - 1e-3
        assert machine.clock.floors.signed >= signed


@given(honest=st.floats(-TOLERANCE / 2, TOLERANCE / 2), lie=times, wall=times)
def test_no_single_liar_among_three_decides(honest: float, lie: float, wall: float) -> None:
    machine = Machine(wall)
    machine.told(NOW, NOW + honest)
    without = machine.clock.now()
    machine.told(NOW, NOW + honest, lie)
    assert abs(machine.clock.now() - without) <= 2 * TOLERANCE
