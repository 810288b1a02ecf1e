"""Patience: how often, and after which pauses, a failed exchange is tried again.

Law: tries are counted from the last byte of progress; pauses double up to a limit, with jitter so that many
nodes do not come back together; a pause that the upstream asks for is sat out if it is short, else it fails.
"""

import random
from collections.abc import Awaitable, Callable

from meshsat.config import UplinkSection
from meshsat.errors import UnavailableError
from meshsat.uplink.network import WireError

Sleep = Callable[[float], Awaitable[None]]


class Patience:
    """For one request. `sleep` takes seconds."""

    def __init__(self, section: UplinkSection, rng: random.Random, sleep: Sleep) -> None:
        self._section = section
        self._rng = rng
        self._sleep = sleep
        self._failures = 0

    def progress(self) -> None:
        self._failures = 0

    async def after(self, fault: WireError) -> None:
        """Wait before the next try, or raise `UnavailableError` when there should be none."""
        self._failures += 1
        asked = fault.retry_after or 0.0
        section = self._section
        if fault.permanent or asked > section.backoff_limit or self._failures >= section.attempts:
            tries = f" ({self._failures} tries in a row failed)" if self._failures > 1 else ""
            raise UnavailableError(f"{fault}{tries}", fault.retry_after) from None
        pause = min(section.backoff_limit, section.backoff * 2 ** (self._failures - 1))
        await self._sleep(max(pause * self._rng.uniform(0.5, 1.0), asked))
