from meshsat.http.seats import PROBATION, Seats


class Guest:
    """Leaves when told to, as a connection does: a little later."""

    def __init__(self) -> None:
        self.left = False

    def leave(self) -> None:
        self.left = True


def come(seats: Seats, now: float = 0.0) -> Guest:
    assert seats.take(now)
    guest = Guest()
    seats.beginning(guest, now)
    return guest


def idle(seats: Seats, now: float = 0.0) -> Guest:
    guest = come(seats, now)
    seats.busy(guest)
    seats.idle(guest)
    return guest


def test_there_is_room_up_to_the_cap_and_again_when_one_has_gone() -> None:
    seats = Seats(2)
    first, second = come(seats), come(seats)
    seats.busy(first)
    seats.busy(second)
    assert not seats.take(0.0)
    seats.give_up(first)
    assert seats.take(0.0)
    assert len(seats) == 2
    seats.give_up()
    assert len(seats) == 1


def test_a_request_under_way_is_never_given_up() -> None:
    seats = Seats(1)
    guest = come(seats)
    seats.busy(guest)
    assert not seats.make_room(1e9)
    assert not guest.left


def test_who_begins_and_does_not_go_on_leaves_first_the_longest_first() -> None:
    seats = Seats(4)
    resting, slow, slower = idle(seats), come(seats, 2.0), come(seats, 1.0)
    now = 2.0 + PROBATION
    leaving = []
    for _ in range(3):
        assert seats.make_room(now)
        leaving.append([guest.left for guest in (resting, slow, slower)].count(True))
    assert leaving == [1, 2, 3]
    assert not seats.make_room(now)


def test_order_of_leaving() -> None:
    seats = Seats(4)
    resting = idle(seats)
    old, young = come(seats, 1.0), come(seats, 10.0)
    seats.make_room(10.0)
    assert (old.left, resting.left, young.left) == (True, False, False)
    seats.make_room(10.0)
    assert (resting.left, young.left) == (True, False)
    seats.make_room(10.0)
    assert young.left


def test_idle_ones_leave_in_the_order_of_their_last_request() -> None:
    seats = Seats(2)
    first, second = idle(seats), idle(seats)
    seats.busy(first)
    seats.idle(first)
    assert seats.take(0.0)
    assert (first.left, second.left) == (False, True)


def test_an_idle_one_that_begins_a_header_is_measured_from_then() -> None:
    seats = Seats(2)
    guest, other = idle(seats), idle(seats)
    seats.beginning(guest, 5.0)
    seats.beginning(guest, 9.0)
    seats.make_room(5.0 + PROBATION)
    assert (guest.left, other.left) == (True, False)


def test_at_the_end_all_leave_who_are_not_busy() -> None:
    seats = Seats(3)
    resting, beginning, busy = idle(seats), come(seats), come(seats)
    seats.busy(busy)
    seats.leave_all()
    assert (resting.left, beginning.left, busy.left) == (True, True, False)
