"""How slow a client may be: so many bytes in so many seconds of waiting for it and for nothing else.

What an application or a disk takes its time for is not the client's fault.
"""

import math
from collections.abc import Awaitable, Callable

import trio

UNIT = 64 * 1024
"""Bytes that a client must take, or bring, in the time given."""


class TooSlowError(Exception):
    """The client has used up its time."""


class Pace:
    """Of one request's body, or of the response to it."""

    __slots__ = ("_left", "_moved", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = self._left = seconds
        self._moved = 0

    async def wait(
        self,
        until: Callable[[], Awaitable[None]],
        *,
        at_most: float = math.inf,
        queued: Callable[[], int] | None = None,
    ) -> None:
        """Raises `TooSlowError`; also when this one wait takes longer than `at_most`.

        `queued`: how many bytes the client has still to take of what it was sent. The kernel wakes us when
        there is much room again; who takes enough meanwhile is in time.
        """
        before = queued() if queued is not None else 0
        while True:
            began = trio.current_time()
            with trio.CancelScope(deadline=began + min(self._left, at_most)) as scope:
                await until()
            self._left -= trio.current_time() - began
            if not scope.cancelled_caught:
                return
            left = queued() if queued is not None else before
            if before - left < UNIT:
                raise TooSlowError
            before, self._left = left, self._seconds

    def moved(self, count: int) -> None:
        self._moved += count
        if self._moved >= UNIT:
            self._moved, self._left = 0, self._seconds
