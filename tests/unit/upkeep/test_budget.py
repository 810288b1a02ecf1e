"""How much is lacking, by budget and by what is to stay free."""

from meshsat.config import DiskSection
from meshsat.oci.digest import Digest
from meshsat.store.database import Contents
from meshsat.store.room import Room
from meshsat.upkeep.budget import Budget
from tests.images import random_bytes

DIGEST = Digest.of(random_bytes(1))


def budget(used: int, available: int = 1 << 40, **section: object) -> Budget:
    room = Room(Contents(blobs={DIGEST: used}), {}, {})
    return Budget(DiskSection(**section), room, lambda: available)  # type: ignore[arg-type]


def test_without_limits_nothing_is_lacking() -> None:
    free = budget(1 << 50)
    assert not free.is_set
    assert free.lacking(1 << 50) < 0
    assert free.over_high() < 0
    assert not free.never_fits(1 << 60)


def test_what_is_lacking_under_the_budget() -> None:
    some = budget(900, budget=1000, high=0.95, low=0.5)
    assert some.lacking(100) == 0
    assert some.lacking(101) == 1
    assert some.to_low(100) == 0
    assert some.to_low(101) == 501, "enough for many that follow"
    assert some.never_fits(1001)


def test_eviction_begins_above_high_and_ends_at_low() -> None:
    assert budget(950, budget=1000, high=0.95, low=0.5).over_high() <= 0
    assert budget(951, budget=1000, high=0.95, low=0.5).over_high() == 451


def test_what_is_to_stay_free_counts_what_is_promised() -> None:
    some = budget(900, available=1000, free=400)
    assert some.lacking(600) == 0
    assert some.over_high() <= 0
    assert some.lacking(601) == 1
