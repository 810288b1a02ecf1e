"""What happens when: actions in the order of their times, and of their making where the times are equal.

Law: a run is a function of what was queued; no clock, no chance, no hash order has a say.
"""

import heapq
from collections.abc import Callable

Action = Callable[[], None]


class Timer:
    """An action to come, which can be called off."""

    __slots__ = ("_action",)

    def __init__(self, action: Action) -> None:
        self._action: Action | None = action

    @property
    def pending(self) -> bool:
        return self._action is not None

    def cancel(self) -> None:
        self._action = None

    def fire(self) -> None:
        action, self._action = self._action, None
        if action is not None:
            action()


class EventQueue:
    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the world began."""
        self.done = 0
        """Actions done so far."""
        self._heap: list[tuple[float, int, Action]] = []
        self._made = 0

    def __len__(self) -> int:
        return len(self._heap)

    def post(self, time: float, action: Action) -> None:
        """As `at`, for what is never called off."""
        self._made += 1
        heapq.heappush(self._heap, (max(time, self.now), self._made, action))

    def at(self, time: float, action: Action) -> Timer:
        """Do it at this time; a time that has passed is now."""
        timer = Timer(action)
        self.post(time, timer.fire)
        return timer

    def after(self, delay: float, action: Action) -> Timer:
        return self.at(self.now + delay, action)

    def run(self, until: float = float("inf"), stop: Callable[[], bool] | None = None) -> None:
        """Do what is due up to `until`, inclusive; the time is `until` then, if that is finite. `stop`, asked
        after each action, ends the run early."""
        heap = self._heap
        pop = heapq.heappop
        while heap and heap[0][0] <= until:
            self.now, _, action = pop(heap)
            self.done += 1
            action()
            if stop is not None and stop():
                return
        if until < float("inf"):
            self.now = max(self.now, until)
