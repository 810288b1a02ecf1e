"""What the machines ask of a random generator. It is given to them: they make no chance of their own."""

from collections.abc import MutableSequence
from typing import Any, Protocol


class Rng(Protocol):
    """`random.Random`, as far as it is used."""

    def randrange(self, stop: int, /) -> int: ...

    def shuffle(self, sequence: MutableSequence[Any], /) -> None: ...

    def uniform(self, low: float, high: float, /) -> float: ...
