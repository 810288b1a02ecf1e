import random

import pytest

from meshsat.config import UplinkSection
from meshsat.errors import UnavailableError
from meshsat.uplink.network import WireError
from meshsat.uplink.patience import Patience


class Asleep:
    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.pauses.append(seconds)


def patience(asleep: Asleep, **settings: float) -> Patience:
    return Patience(UplinkSection(**settings), random.Random(3), asleep)  # type: ignore[arg-type] # numbers


async def test_pauses_double_up_to_the_limit_with_jitter() -> None:
    asleep = Asleep()
    patient = patience(asleep, attempts=8, backoff=1.0, backoff_limit=10.0)
    for _ in range(7):
        await patient.after(WireError("broken"))
    for pause, full in zip(asleep.pauses, [1, 2, 4, 8, 10, 10, 10], strict=True):
        assert full / 2 <= pause <= full
    assert len(set(asleep.pauses)) == 7
    with pytest.raises(UnavailableError, match=r"broken \(8 tries in a row failed\)"):
        await patient.after(WireError("broken"))


async def test_progress_starts_the_count_anew() -> None:
    asleep = Asleep()
    patient = patience(asleep, attempts=2)
    for _ in range(20):
        await patient.after(WireError("broken"))
        patient.progress()
    assert max(asleep.pauses) <= 0.25


async def test_what_cannot_mend_is_not_tried_again() -> None:
    asleep = Asleep()
    with pytest.raises(UnavailableError, match=r"^no TLS there$"):
        await patience(asleep).after(WireError("no TLS there", permanent=True))
    assert asleep.pauses == []


async def test_a_short_pause_that_was_asked_for_is_sat_out_and_a_long_one_told() -> None:
    asleep = Asleep()
    patient = patience(asleep, backoff_limit=10.0)
    await patient.after(WireError("busy", retry_after=7.0))
    assert asleep.pauses == [7.0]
    with pytest.raises(UnavailableError) as told:
        await patient.after(WireError("busy", retry_after=11.0))
    assert told.value.retry_after == 11.0
