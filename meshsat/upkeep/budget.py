"""The disk budget: how much may be there, and how much is lacking. Figures only."""

from collections.abc import Callable
from dataclasses import dataclass

from meshsat.config import DiskSection
from meshsat.store.room import Room


@dataclass(slots=True)
class Budget:
    """`available`: gives the bytes that the file system still takes. The section may be replaced while it
    runs."""

    section: DiskSection
    room: Room
    available: Callable[[], int]

    def lacking(self, size: int) -> int:
        """Bytes that are in the way of so many more; 0 or less: there is room."""
        lacking = [-1]
        if self.section.budget:
            lacking.append(self.room.used + size - self.section.budget)
        if self.section.free:
            lacking.append(self.section.free + self.room.promised + size - self.available())
        return max(lacking)

    def over_high(self) -> int:
        """Bytes above the low watermark, once what is there is above the high one; else 0 or less."""
        section, used = self.section, self.room.used
        over = used - int(section.low * section.budget)
        if section.budget and used > section.high * section.budget:
            return over
        return self.lacking(0)

    def to_low(self, size: int) -> int:
        """Bytes to make room of, so that not each of many must."""
        lacking = self.lacking(size)
        if lacking > 0 and self.section.budget:
            lacking = max(lacking, self.room.used + size - int(self.section.low * self.section.budget))
        return lacking

    @property
    def is_set(self) -> bool:
        return bool(self.section.budget or self.section.free)

    def never_fits(self, size: int) -> bool:
        return bool(self.section.budget) and size > self.section.budget
