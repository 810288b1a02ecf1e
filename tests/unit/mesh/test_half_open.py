from contextlib import ExitStack

import trio

from meshsat.mesh.half_open import HalfOpen


def admit(half_open: HalfOpen, stack: ExitStack, source: str) -> trio.CancelScope:
    scope = trio.CancelScope()
    stack.enter_context(half_open.admit(source, scope))
    return scope


async def test_the_oldest_of_a_source_makes_room_for_its_next() -> None:
    half_open = HalfOpen(total=10, per_source=2)
    with ExitStack() as stack:
        other = admit(half_open, stack, "b")
        scopes = [admit(half_open, stack, "a") for _ in range(4)]
        assert [scope.cancel_called for scope in scopes] == [True, True, False, False]
        assert not other.cancel_called
        assert len(half_open) == 3
    assert len(half_open) == 0


async def test_when_all_places_are_taken_the_source_with_most_makes_room() -> None:
    half_open = HalfOpen(total=4, per_source=3)
    with ExitStack() as stack:
        few = admit(half_open, stack, "few")
        many = [admit(half_open, stack, "many") for _ in range(3)]
        newcomer = admit(half_open, stack, "new")
        assert [scope.cancel_called for scope in (few, *many, newcomer)] == [False, True, False, False, False]


async def test_a_place_is_given_back() -> None:
    half_open = HalfOpen(total=1, per_source=1)
    for _ in range(3):
        with ExitStack() as stack:
            assert not admit(half_open, stack, "a").cancel_called
    assert len(half_open) == 0
