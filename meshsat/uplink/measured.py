"""Measured: how fast the uplink is while it brings blobs. Pure: time and bytes are told.

Pauses count only up to `PAUSE`: a line that is idle is not slow.
"""

WINDOW = 2.0
"""Seconds of bringing that make one sample."""
PAUSE = 0.5
SMOOTHING = 0.3
_LEAST = 256 * 1024
"""Bytes of a sample: less says more about the delay than about the line."""


class Measured:
    def __init__(self, rate: float = 0.0, pause: float = PAUSE) -> None:
        self.rate = rate
        """Bytes per second on the wire; 0: not known."""
        self._pause = pause
        self._last = float("-inf")
        self._busy = 0.0
        self._bytes = 0

    def came(self, size: int, now: float) -> None:
        gap, self._last = now - self._last, now
        if gap > self._pause:  # begun anew: what came first has no time to it
            return
        self._busy += gap
        self._bytes += size
        if self._busy >= WINDOW and self._bytes >= _LEAST:
            sample = self._bytes / self._busy
            self.rate += (sample - self.rate) * (SMOOTHING if self.rate else 1.0)
            self._busy, self._bytes = 0.0, 0
        elif self._busy >= 4 * WINDOW:
            self._busy, self._bytes = 0.0, 0
