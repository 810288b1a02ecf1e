"""How slow a client may be: so many bytes in so many seconds of waiting for it and for nothing else.

What an application or a disk takes its time for is not the client's fault.
"""

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

    async def wait(self, until: Callable[[], Awaitable[None]], at_most: float = float("inf")) -> None:
        """Raises `TooSlowError`; also when this one wait takes longer than `at_most`."""
        began = trio.current_time()
        with trio.CancelScope(deadline=began + min(self._left, at_most)) as scope:
            await until()
        self._left -= trio.current_time() - began
        if scope.cancelled_caught:
            raise TooSlowError

    def moved(self, count: int) -> None:
        self._moved += count
        if self._moved >= UNIT:
            self._moved, self._left = 0, self._seconds
