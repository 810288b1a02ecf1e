"""Bytes as fluids: links with a capacity, flows that share them max-min fair, as long-lived TCP streams do.

A flow carries items one behind the other and lasts as long as it has some. Rates are those of progressive
filling (Bertsekas and Gallager, Data Networks, 6.5.2): no flow could be faster but at the cost of one that is
not faster. A change touches only the flows that are connected with it by links which could be full; changes
within `grain` seconds are worked out together.
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from sim.simulator.queue import EventQueue

Done = Callable[[], None]
EPSILON = 1e-6
"""Bytes, and parts of a byte a second, that rounding may cost."""


class Link:
    """`rate` in bytes a second. `bytes`: what has passed, counted when an item ends or is given up."""

    __slots__ = ("bytes", "count", "demand", "flows", "left", "mark", "name", "rate")

    def __init__(self, name: str, rate: float) -> None:
        self.name = name
        self.rate = rate
        self.bytes = 0.0
        self.flows: dict[Flow, None] = {}
        self.demand = 0.0
        """What its flows would take if nothing but their narrowest link held them."""
        self.left = 0.0
        self.count = 0
        self.mark = 0

    @property
    def could_be_full(self) -> bool:
        return self.demand > self.rate * (1 + 1e-9)

    @property
    def load(self) -> float:
        """Bytes a second that pass now."""
        return sum(flow.rate for flow in self.flows)


class Flow:
    __slots__ = ("_at", "_due", "ceiling", "items", "links", "mark", "rate", "remaining", "since", "target")

    def __init__(self, links: tuple[Link, ...], now: float) -> None:
        self.links = links
        self.items: deque[tuple[float, Done]] = deque()
        self.ceiling = min(link.rate for link in links)
        self.rate = 0.0
        self.remaining = 0.0
        """Bytes of the first item, as of `since`."""
        self.since = now
        self.target = 0.0
        self.mark = 0
        self._at = float("inf")
        self._due = float("inf")

    @property
    def alive(self) -> bool:
        return bool(self.items)

    def moved(self, now: float) -> float:
        """Bytes of the first item that have passed by now."""
        left = max(0.0, self.remaining - self.rate * (now - self.since))
        return self.items[0][0] - left if self.items else 0.0


class Fluid:
    def __init__(self, queue: EventQueue, grain: float = 0.0) -> None:
        self.links: dict[str, Link] = {}
        self.fillings = 0
        """How often rates were worked out, and for how many flows in all."""
        self.filled = 0
        self._queue = queue
        self._grain = grain
        self._dirty_links: dict[Link, None] = {}
        self._dirty_flows: dict[Flow, None] = {}
        self.planned = False
        """Rates are due to be worked out: those of now are of before the last change."""
        self._mark = 0

    def add_link(self, name: str, rate: float) -> Link:
        """Raises `ValueError` for a name that is taken."""
        if name in self.links:
            raise ValueError(f"there is a link {name} already")
        link = self.links[name] = Link(name, rate)
        return link

    def set_rate(self, link: Link, rate: float) -> None:
        link.rate = rate
        for flow in link.flows:
            ceiling = min(one.rate for one in flow.links)
            for one in flow.links:
                one.demand += ceiling - flow.ceiling
                self._dirty_links[one] = None
            flow.ceiling = ceiling
        self._dirty_links[link] = None
        self._plan()

    def start(self, links: Sequence[Link], size: float, done: Done) -> Flow:
        """Carry `size` bytes over all these links; `done` is called when the last has passed."""
        now = self._queue.now
        flow = Flow(tuple(links), now)
        flow.items.append((size, done))
        flow.remaining = size
        self._dirty_flows[flow] = None
        for link in flow.links:
            link.flows[flow] = None
            link.demand += flow.ceiling
            if link.could_be_full:
                self._dirty_links[link] = None
        self._plan()
        return flow

    def push(self, flow: Flow, size: float, done: Done) -> None:
        """Carry more behind what the flow carries: it must not have ended. That `done` was called for the
        last item does not end it before `done` returns."""
        if not flow.items:
            raise ValueError("the flow has ended")
        flow.items.append((size, done))

    def cancel(self, flow: Flow) -> float:
        """End the flow; returns the bytes of its first item that have passed."""
        if not flow.items:
            return 0.0
        moved = flow.moved(self._queue.now)
        for link in flow.links:
            link.bytes += moved
        flow.items.clear()
        self._end(flow)
        return moved

    def _end(self, flow: Flow) -> None:
        for link in flow.links:
            if link.could_be_full:
                self._dirty_links[link] = None
            del link.flows[flow]
            link.demand = link.demand - flow.ceiling if link.flows else 0.0
        self._dirty_flows.pop(flow, None)
        flow.rate = 0.0
        flow._at = flow._due = float("inf")  # noqa: SLF001 - its owner
        if self._dirty_links:
            self._plan()

    # --- rates ---

    def _plan(self) -> None:
        if not self.planned:
            self.planned = True
            self._queue.post(self._queue.now + self._grain, self.fill)

    def fill(self) -> None:
        """Work out the rates of all flows that the changes so far can have touched."""
        self.planned = False
        self._mark += 1
        mark = self._mark
        links, flows = list(self._dirty_links), list(self._dirty_flows)
        self._dirty_links.clear()
        self._dirty_flows.clear()
        for link in links:
            link.mark = mark
        for flow in flows:
            flow.mark = mark
        for flow in flows:
            self._reach(flow, links, mark)
        for link in links:  # grows
            for flow in link.flows:
                if flow.mark != mark:
                    flow.mark = mark
                    flows.append(flow)
                    self._reach(flow, links, mark)
        self.fillings += 1
        self.filled += len(flows)
        _fill(flows, [link for link in links if link.flows])
        now = self._queue.now
        for flow in flows:
            if flow.target != flow.rate:
                flow.remaining = max(0.0, flow.remaining - flow.rate * (now - flow.since))
                flow.since = now
                flow.rate = flow.target
                self._await(flow)

    def _reach(self, flow: Flow, links: list[Link], mark: int) -> None:
        for link in flow.links:
            if link.mark != mark and link.could_be_full:
                link.mark = mark
                links.append(link)

    def _await(self, flow: Flow) -> None:
        due = flow.since + flow.remaining / flow.rate if flow.rate > 0 else float("inf")
        flow._due = due  # noqa: SLF001 - its owner
        if due < flow._at:  # noqa: SLF001 - a later one is found too early, and put off then
            flow._at = due  # noqa: SLF001
            self._queue.post(due, partial(self._fire, flow, due))

    def _fire(self, flow: Flow, at: float) -> None:
        if flow._at != at:  # noqa: SLF001 - an earlier one took its place, or the flow is over
            return
        flow._at = float("inf")  # noqa: SLF001
        if flow._due > at:  # noqa: SLF001 - it became slower meanwhile
            self._await(flow)
            return
        size, done = flow.items[0]
        for link in flow.links:
            link.bytes += size
        flow.remaining, flow.since = size, at  # nothing of it is counted again if `done` cancels the flow
        done()
        if not flow.items:  # cancelled in there
            return
        flow.items.popleft()
        if flow.items:
            flow.remaining = flow.items[0][0]
            flow.since = self._queue.now
            self._await(flow)
        else:
            self._end(flow)


def _fill(flows: list[Flow], links: list[Link]) -> None:
    """Progressive filling: set every flow's `target`. `links` are those of them that could be full."""
    if not links:
        for flow in flows:
            flow.target = flow.ceiling
        return
    for link in links:
        link.left, link.count = link.rate, len(link.flows)
    for flow in flows:
        flow.target = -1.0
    marked = set(map(id, links))
    narrow = sorted(flows, key=lambda flow: flow.ceiling, reverse=True)
    shares = [(link.left / link.count, number) for number, link in enumerate(links)]
    heapq.heapify(shares)
    while narrow:
        share = _least(shares, links)
        if narrow[-1].ceiling <= share[0]:
            flow = narrow.pop()
            if flow.target < 0:
                _settle(flow, flow.ceiling, marked)
            continue
        level, number = share
        for flow in links[number].flows:
            if flow.target < 0:
                _settle(flow, level, marked)
        while narrow and narrow[-1].target >= 0:
            narrow.pop()


def _settle(flow: Flow, rate: float, marked: set[int]) -> None:
    flow.target = rate
    for link in flow.links:
        if id(link) in marked:
            link.left -= rate
            link.count -= 1


def _least(shares: list[tuple[float, int]], links: list[Link]) -> tuple[float, int]:
    """The link whose flows can have least, and how much. Shares only grow: the queue may be behind."""
    while shares:
        share, number = shares[0]
        link = links[number]
        if not link.count:
            heapq.heappop(shares)
            continue
        now = max(share, link.left / link.count)
        if now <= share * (1 + 1e-12):
            return share, number
        heapq.heapreplace(shares, (now, number))
    return float("inf"), -1
