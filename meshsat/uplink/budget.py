"""Budget: how many bytes a second may come in over the WAN.

Law: over any time t, no more than `rate * t + BURST * rate` bytes and one read of each connection are taken
from the sockets; what is not taken stays in the kernel's buffers, whose windows then hold the senders back.
Nothing is ever dropped. Time is trio's clock.
"""

import trio

BURST = 0.1
"""Seconds of silence that may be made up for at full speed."""
READ_SIZE = 64 * 1024
_LEAST_READ = 4 * 1024
_LEAST_BUFFER, _MOST_BUFFER = 128 * 1024, 4 * 1024 * 1024


class TokenBucket:
    """`ready`, read at most `read_size` bytes, then `spend` what came: the bucket may run into debt by one
    read, and the next reader waits it out. A reader that waits for its sender thus holds no tokens."""

    def __init__(self, rate: int) -> None:
        """`rate` in bytes per second; 0 is no cap."""
        self.rate = rate
        self._tokens = 0.0
        self._filled_at: float | None = None
        self._turn = trio.Lock()

    @property
    def read_size(self) -> int:
        """The largest single read, in bytes, that keeps the flow smooth."""
        return min(READ_SIZE, max(_LEAST_READ, int(self.rate * BURST))) if self.rate else READ_SIZE

    @property
    def receive_buffer(self) -> int | None:
        """Bytes that a socket should buffer: half a second's worth, or the flow would come in bursts of the
        megabytes that the kernel likes to hold. None: leave it to the kernel."""
        return min(_MOST_BUFFER, max(_LEAST_BUFFER, self.rate // 2)) if self.rate else None

    async def ready(self) -> None:
        """Wait until something may be read; first come, first served."""
        if not self.rate:
            return
        async with self._turn:
            # Less than a byte is no debt: the clock's own grain must not keep us here.
            while (debt := -self._fill()) >= 1:  # noqa: ASYNC110 - others spend meanwhile
                await trio.sleep(debt / self.rate)

    def spend(self, size: int) -> None:
        """`size` bytes were read."""
        if self.rate:
            self._fill()
            self._tokens -= size

    def _fill(self) -> float:
        now = trio.current_time()
        if self._filled_at is not None:
            self._tokens = min(self.rate * BURST, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        return self._tokens
