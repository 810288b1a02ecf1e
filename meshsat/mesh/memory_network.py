"""A network in memory, on trio's clock: hosts with rates, latency, cuts, partitions and deaths.

Bytes leave through the sender's uplink and arrive through the receiver's downlink, each a queue that passes
`quantum` bytes at a time, so the streams of a host get about equal shares. A stream has at most `in_flight`
bytes between the two ends and `window` bytes waiting to be read; then its sender waits, as TCP's would.
Nothing is random: under an autojump clock the same program sees the same arrival times. (Which of two tasks
that are due at the same instant runs first is trio's choice; `tests/deterministic.py` fixes that too.)

A cut holds bytes back and delivers them when it heals, like a pulled cable. A killed host breaks its streams
at once, like a killed process; a silent one just says nothing more, like a machine without power.
"""

from collections import deque
from collections.abc import Iterable
from math import inf
from typing import Protocol

import trio

from meshsat.mesh.transport import StreamBroken
from meshsat.trust.admission import VerifiedPasses


class Lane:
    """One direction of a host's network card. `rate` in bytes per second, None for no limit."""

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self.bytes = 0
        """Passed so far."""
        self._free_at = 0.0

    def reserve(self, length: int, earliest: float) -> float:
        """Queue `length` bytes; returns the time at which the last of them has passed."""
        self.bytes += length
        if self.rate is None:
            return earliest
        self._free_at = max(self._free_at, earliest) + length / self.rate
        return self._free_at


class Listener(Protocol):
    """What listens on a port."""

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The pass that it shows."""
        ...

    def accept(
        self, caller: tuple[bytes, ...], source: str, protocol: str, inbound: "Pipe", outbound: "Pipe"
    ) -> None:
        """Take a stream from whoever shows the pass `caller`. Raises `DialError`."""
        ...


class MemoryHost:
    def __init__(self, name: str, up: float | None, down: float | None) -> None:
        self.name = name
        self.up = Lane(up)
        self.down = Lane(down)
        self.alive = True
        self.listeners: dict[int, Listener] = {}

    def listen(self, listener: Listener) -> int:
        """Returns the port, from 4702 on."""
        port = max(self.listeners, default=4701) + 1
        self.listeners[port] = listener
        return port


class MemoryNetwork:
    """`latency` in seconds one way; sizes in bytes."""

    def __init__(
        self,
        latency: float = 0.0,
        *,
        quantum: int = 32 * 1024,
        in_flight: int = 256 * 1024,
        window: int = 1024 * 1024,
    ) -> None:
        self.latency = latency
        self.quantum = quantum
        self.in_flight = in_flight
        self.window = window
        self.hosts: dict[str, MemoryHost] = {}
        self.passes = VerifiedPasses()
        """Shared by all hosts: a thousand connections in a test need not check a thousand signatures."""
        self._cuts: dict[frozenset[str], float] = {}
        self._silent: dict[str, float] = {}
        self._pipes: dict[int, Pipe] = {}
        self._news = trio.Event()

    def add_host(self, name: str, *, up: float | None = None, down: float | None = None) -> MemoryHost:
        """`up` and `down` in bytes per second; None is no limit."""
        host = self.hosts[name] = MemoryHost(name, up, down)
        return host

    def cut(self, one: str, other: str) -> None:
        """Pull the cable between two hosts."""
        self._cuts.setdefault(frozenset((one, other)), trio.current_time())
        self._wake_all()

    def heal(self, one: str, other: str) -> None:
        self._cuts.pop(frozenset((one, other)), None)
        self._wake_all()

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut every cable between hosts of different groups."""
        placed = [(name, number) for number, group in enumerate(groups) for name in group]
        for one, group in placed:
            for other, other_group in placed:
                if group < other_group:
                    self.cut(one, other)

    def heal_all(self) -> None:
        self._cuts.clear()
        self._silent.clear()
        self._wake_all()

    def kill(self, name: str) -> None:
        """End the process: all its streams break, its ports refuse. Its tasks are the caller's to cancel."""
        self.hosts[name].alive = False
        for pipe in list(self._pipes.values()):
            if name in (pipe.source.name, pipe.sink.name):
                pipe.break_off(f"{name} died")

    def revive(self, name: str) -> None:
        self.hosts[name].alive = True
        self._silent.pop(name, None)
        self._wake_all()

    def silence(self, name: str) -> None:
        """Cut the power: nothing to or from it passes any more, and nobody is told."""
        self._silent.setdefault(name, trio.current_time())
        self._wake_all()

    async def round_trip(self, one: MemoryHost, other: MemoryHost) -> None:
        """There and back, once nothing cuts the two off from each other."""
        while self.cut_since(one.name, other.name) < inf:
            await self._news.wait()
        await trio.sleep(0 if one is other else 2 * self.latency)

    def cut_since(self, one: str, other: str) -> float:
        """The time from which on nothing passes between the two, `inf` while it does."""
        return min(
            self._cuts.get(frozenset((one, other)), inf),
            self._silent.get(one, inf),
            self._silent.get(other, inf),
        )

    def pipe(self, source: MemoryHost, sink: MemoryHost) -> "Pipe":
        pipe = Pipe(self, source, sink)
        self._pipes[id(pipe)] = pipe
        return pipe

    def forget(self, pipe: "Pipe") -> None:
        self._pipes.pop(id(pipe), None)

    def _wake_all(self) -> None:
        self._news.set()
        self._news = trio.Event()
        for pipe in list(self._pipes.values()):
            pipe.wake()


class Pipe:
    """One direction of a stream."""

    def __init__(self, network: MemoryNetwork, source: MemoryHost, sink: MemoryHost) -> None:
        self.source = source
        self.sink = sink
        self._network = network
        self._queue: deque[tuple[float, memoryview | None]] = deque()  # arrival time, bytes; None: the end
        self._queued = 0
        self._flying: deque[tuple[float, int]] = deque()  # arrival time, length
        self._flying_bytes = 0
        self._ended = False
        self._broken: str | None = None
        self._news = trio.Event()

    async def send(self, data: bytes | memoryview) -> None:
        network = self._network
        local = self.source is self.sink
        paced = not local and not (self.source.up.rate is None is self.sink.down.rate)
        view = memoryview(bytes(data))
        step = network.quantum if paced else network.window
        for start in range(0, len(view), step):
            part = view[start : start + step]
            await self._room()
            now = trio.current_time()
            left = now if local else self.source.up.reserve(len(part), now)
            if left > now:
                await trio.sleep_until(left)
            self._check()
            arrival = left if local else self.sink.down.reserve(len(part), left + network.latency)
            self._queue.append((arrival, part))
            self._queued += len(part)
            self._flying.append((arrival, len(part)))
            self._flying_bytes += len(part)
            self.wake()

    async def receive(self, max_bytes: int) -> bytes:
        while True:
            self._check()
            due = inf
            if self._queue:
                due, part = self._queue[0]
                held_back = due > self._network.cut_since(self.source.name, self.sink.name)
                if due <= trio.current_time() and not held_back:
                    return self._take(part, max_bytes)
                if held_back:
                    due = inf
            await self._wait(due)

    def end(self) -> None:
        """The sender closes: what was sent still arrives, then a clean end."""
        if not self._ended and self._broken is None:
            self._ended = True
            last = self._queue[-1][0] if self._queue else 0.0
            latency = 0.0 if self.source is self.sink else self._network.latency
            self._queue.append((max(last, trio.current_time() + latency), None))
            self.wake()

    def break_off(self, reason: str) -> None:
        """Break both ends at once; what was not read is lost."""
        self._broken = self._broken or reason
        self._queue.clear()
        self._network.forget(self)
        self.wake()

    def wake(self) -> None:
        self._news.set()

    def _check(self) -> None:
        if self._broken is not None:
            raise StreamBroken(self._broken)

    def _take(self, part: memoryview | None, max_bytes: int) -> bytes:
        if part is None:
            return b""
        taken, rest = part[:max_bytes], part[max_bytes:]
        if rest:
            self._queue[0] = (self._queue[0][0], rest)
        else:
            self._queue.popleft()
        self._queued -= len(taken)
        self.wake()
        return bytes(taken)

    async def _room(self) -> None:
        """Wait until the pipe takes more."""
        network = self._network
        while True:
            self._check()
            if self._ended:
                raise StreamBroken("closed")
            now = trio.current_time()
            cut = network.cut_since(self.source.name, self.sink.name)
            while self._flying and self._flying[0][0] <= min(now, cut):
                self._flying_bytes -= self._flying.popleft()[1]
            waiting = self._queued - self._flying_bytes
            if cut == inf and self._flying_bytes < network.in_flight and waiting < network.window:
                return
            await self._wait(self._flying[0][0] if self._flying and cut == inf else inf)

    async def _wait(self, deadline: float) -> None:
        """Until something changed, or `deadline`. The two ends may both wait."""
        if self._news.is_set():
            self._news = trio.Event()
        with trio.move_on_at(deadline):
            await self._news.wait()
