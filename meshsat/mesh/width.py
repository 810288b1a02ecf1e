"""How many connections to an upstream at once: as many as help, and one where more do not.

On a long or lossy line one connection gets a fraction of the rate, and several get several; on any other one
fills it. Nobody can tell from outside, so it is tried: twice as many for a moment, and half as many now and
then. Pure: time and bytes are told.
"""

LOOK = 2.0
"""Seconds over which a rate is measured."""
SETTLE = 1.0
"""Seconds before that, for connections to come up to speed."""
GAIN = 1.25
"""By how much twice as many must be faster to stay."""
LOSS = 0.95
"""Half as many stay if they are no slower than this."""
AGAIN = (30.0, 600.0)
"""Seconds until the next trial; doubles with each that changed nothing."""


class Width:
    def __init__(self, limit: int) -> None:
        """`limit`: the most connections."""
        self.limit = max(1, limit)
        self.target = 1
        self._settled = 1
        """What we return to when a trial brings nothing."""
        self._rate = 0.0
        """Bytes per second at that."""
        self._since = 0.0
        self._looked_at = float("-inf")
        self._bytes = 0
        self._trial_at = float("-inf")
        self._wait = AGAIN[0]
        self._narrow_next = False

    def came(self, size: int) -> None:
        self._bytes += size

    def look(self, now: float) -> int:
        """How many there should be; to be called a few times a second while something is fetched."""
        if now - self._looked_at > LOOK:  # nothing was fetched meanwhile
            self.target = self._settled
            self._measure_from(now)
        self._looked_at = now
        if now < self._since:
            self._bytes = 0
        elif now - self._since >= LOOK:
            self._judge(self._bytes / (now - self._since), now)
        return self.target

    def refused(self, now: float) -> None:
        """The upstream does not like so many."""
        self.target = self._settled = max(1, self.target // 2)
        self._rest(now)
        self._measure_from(now)

    def _measure_from(self, now: float) -> None:
        self._since, self._bytes = now + SETTLE, 0

    def _judge(self, rate: float, now: float) -> None:
        if self.target == self._settled:
            self._rate = rate
            if now >= self._trial_at:
                self._try(now)
        elif rate >= self._rate * (GAIN if self.target > self._settled else LOSS):
            wider = self.target > self._settled
            self._settled, self._rate, self._wait = self.target, rate, AGAIN[0]
            if wider and self.target < self.limit:
                self._narrow_next = False
                self._try(now)  # perhaps even more help
            else:
                self._rest(now)
        else:
            self.target = self._settled
            self._rest(now)
        self._measure_from(now)

    def _try(self, now: float) -> None:
        narrow = self._settled > 1 and (self._narrow_next or self._settled == self.limit)
        self.target = self._settled // 2 if narrow else min(self._settled * 2, self.limit)
        self._narrow_next = not narrow
        if self.target == self._settled:
            self._rest(now)

    def _rest(self, now: float) -> None:
        self._trial_at = now + self._wait
        self._wait = min(self._wait * 2, AGAIN[1])
