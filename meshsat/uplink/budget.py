"""Budget: how many bytes a second may come in over the WAN, whatever senders and kernels hold ready.

Two rules, and both must allow a read or a request. A token bucket, charged with what arrived, keeps the flow
even. And what arrived within the last `SPAN` seconds, with all that our kernel has given senders leave to
send, is never more than `LIMIT` times the rate's worth: senders can not use more than the windows they were
given, so this holds even if all of them send all of it at once.

Law: over any `SPAN` seconds at most `LIMIT` times the rate's worth of bytes arrives, TCP's and IP's headers
included, as long as the rate's worth of half a second is more than the least windows of the connections in
use (`LEAST_WINDOW` each). Nothing is ever dropped. Time is trio's clock.
"""

from collections import deque
from typing import Protocol

import trio

BURST = 0.1
"""Seconds of silence that may be made up for at full speed."""
SPAN = 5.0
LIMIT = 1.02
SLOT = 0.05
"""Seconds: the grain of the memory of what arrived."""
READ_SIZE = 64 * 1024
LEAST_WINDOW = 8 * 1024
_LEAST_READ = 512
_MOST_WINDOW = 4 * 1024 * 1024
_AT_HAND = 0.15
"""Seconds' worth of bytes that all windows together hold, on a line without delay."""
_MOST_AT_HAND = 0.8
_ROUND_TRIPS = 1.25
"""How many round trips' worth of windows a long line gets: it would else be slower than its rate."""
_POLL = 0.02
_QUEUE = 3.0
"""Seconds for which a request waits for others to be answered."""
_OVERHEAD = 1.04
"""Bytes on the wire for each of payload: headers of full segments."""


class Wire(Protocol):
    """What a connection's socket tells and takes: `sockets.TcpWire`."""

    def count(self) -> tuple[int, int]:
        """Bytes of payload that arrived in order since it was opened, and of all packets that came."""

    def round_trip(self) -> float:
        """Seconds."""

    def allow(self, window: int) -> None:
        """Give the sender leave for at most so many bytes ahead of what was read."""


class Flow:
    """One connection, as far as the budget goes. `active`: the other side has something to send."""

    def __init__(self, wire: Wire, window: int = 0) -> None:
        """`window`: what the other side was offered when the connection was opened."""
        self.wire = wire
        self.active = False
        self.window = window
        """Bytes; as last allowed."""
        self.read = 0
        """Bytes of payload that were read."""
        self.arrived = 0
        """Bytes of payload that our kernel has or had."""
        self.counted = 0
        """Bytes on the wire that were charged."""
        self._edge = window

    @property
    def exposure(self) -> int:
        """Bytes of payload that may come without another word of ours."""
        return max(0, self._edge - self.arrived) if self.active else 0

    @property
    def next_exposure(self) -> int:
        """The same, as soon as it is asked for something."""
        return max(self._edge, self.read + self.window) - self.arrived

    def extend(self) -> None:
        self._edge = max(self._edge, self.read + self.window)


class Budget:
    def __init__(self, rate: int) -> None:
        """`rate` in bytes per second; 0 is no cap."""
        self._rate = rate
        self._tokens = 0.0
        self._filled_at: float | None = None
        self._flows: set[Flow] = set()
        self._slots: deque[tuple[int, int]] = deque()
        self._within = 0
        """The sum of the slots."""
        self._turn = trio.Lock()
        self._asking = trio.Lock()

    @property
    def rate(self) -> int:
        return self._rate

    def set_rate(self, rate: int) -> None:
        """Takes effect at once: on connections that are open as well, but for what their senders were given
        leave for while there was no cap."""
        if rate == self._rate:
            return
        self._fill()
        self._rate = rate
        self._tokens = min(self._tokens, rate * BURST)
        for flow in self._flows:
            self._apply(flow)

    @property
    def read_size(self) -> int:
        """The largest single read, in bytes, that keeps the flow smooth."""
        return min(READ_SIZE, max(_LEAST_READ, int(self._rate * BURST / 2))) if self._rate else READ_SIZE

    @property
    def first_window(self) -> int | None:
        """Bytes that the other side of a new connection is offered: a part, since others may be opened at
        the same time. None: leave it to the kernel."""
        return min(_MOST_WINDOW, max(LEAST_WINDOW, int(self._rate * _AT_HAND / 8))) if self._rate else None

    def add(self, flow: Flow) -> None:
        """A connection was opened."""
        self._flows.add(flow)

    def remove(self, flow: Flow) -> None:
        """It was closed; what came and was not read counts."""
        if flow in self._flows:
            self.poll(flow)
            self._flows.remove(flow)

    def poll(self, flow: Flow) -> int:
        """See what arrived; returns bytes on the wire that were not known yet."""
        arrived, on_wire = flow.wire.count()
        on_wire = max(on_wire, flow.read)  # a kernel that tells nothing does not make it free
        news, flow.arrived = on_wire - flow.counted, max(flow.arrived, arrived)
        flow.counted = max(flow.counted, on_wire)
        if news > 0 and self._rate:
            self._fill()
            self._tokens -= news
            self._remember(news)
        return max(0, news)

    async def begin(self, flow: Flow) -> None:
        """Wait until the other side may be asked for something."""
        if flow.active:
            return
        size = max(0, flow.next_exposure)
        async with self._asking:
            with trio.move_on_after(_QUEUE):
                while self._rate and 0 < self._exposed() > 2 * self._at_hand - size:  # noqa: ASYNC110
                    await trio.sleep(_POLL)  # the kernel tells nobody that something came
            async with self._turn:
                await self._wait(size)
                flow.active = True
                flow.extend()

    def rest(self, flow: Flow) -> None:
        """It has sent all that it was asked for."""
        self.poll(flow)
        flow.active = False

    async def ready(self, size: int) -> None:
        """Wait until `size` bytes may be read; first come, first served."""
        if not self._rate:
            return
        async with self._turn:
            await self._wait(size)

    def took(self, flow: Flow, size: int) -> None:
        """`size` bytes were read."""
        flow.read += size
        flow.arrived = max(flow.arrived, flow.read)
        self._apply(flow)
        flow.extend()

    def _exposed(self) -> int:
        """Bytes that may come without another word of ours."""
        for flow in self._flows:
            if flow.active:
                self.poll(flow)
        return sum(flow.exposure for flow in self._flows)

    async def _wait(self, size: int) -> None:
        while self._rate:
            exposed = self._exposed()
            debt = -self._fill()
            # Less than a byte is no debt: the clock's own grain must not keep us here.
            if debt >= 1:
                await trio.sleep(debt / self._rate)
            elif not self._fits(exposed, size):
                await trio.sleep(_POLL)
            else:
                return

    def _fits(self, exposed: int, size: int) -> bool:
        self._forget()
        if not exposed and not self._within:
            return True
        ahead = (exposed + size) * _OVERHEAD
        # Windows that senders do not use must not stop all: at very low rates the bucket alone counts then.
        return self._within + min(ahead, SPAN * self._rate / 2) <= LIMIT * SPAN * self._rate

    @property
    def _at_hand(self) -> float:
        """Bytes that all windows together are to be."""
        trip = min((one.wire.round_trip() for one in self._flows if one.active), default=0.0)
        return self._rate * min(_MOST_AT_HAND, max(_AT_HAND, _ROUND_TRIPS * trip))

    def _apply(self, flow: Flow) -> None:
        """Divide the windows among those who use them."""
        window = _MOST_WINDOW
        if self._rate:
            active = sum(one.active for one in self._flows)
            window = min(_MOST_WINDOW, max(LEAST_WINDOW, int(self._at_hand / max(1, active))))
        elif not flow.window:
            return  # never capped: the kernel knows best
        if flow.window != window:
            flow.window = window
            flow.wire.allow(window)

    def _fill(self) -> float:
        now = trio.current_time()
        if self._filled_at is not None:
            self._tokens = min(self._rate * BURST, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        return self._tokens

    def _remember(self, size: int) -> None:
        slot = int(trio.current_time() / SLOT)
        if self._slots and self._slots[-1][0] == slot:
            self._slots[-1] = slot, self._slots[-1][1] + size
        else:
            self._slots.append((slot, size))
        self._within += size
        self._forget()

    def _forget(self) -> None:
        oldest = int(trio.current_time() / SLOT) - int(SPAN / SLOT) - 1
        while self._slots and self._slots[0][0] < oldest:
            self._within -= self._slots.popleft()[1]
