"""What somebody on this node waits for: a blob, or the answer what a reference means."""

import trio

from meshsat.oci.digest import Digest
from meshsat.protocol.events import Fault
from meshsat.protocol.gossip import ImageRecord


class Demand:
    """One interest in one blob. `changed` fires at every step; then look again."""

    def __init__(self, blob: Digest, size: int) -> None:
        self.blob = blob
        self.size = size
        self.published = False
        self.fault: Fault | None = None
        """The last thing that went wrong; more may come all the same, unless it is of the final kind."""
        self.message = ""
        self._changed = trio.Event()

    async def changed(self) -> None:
        await self._changed.wait()

    def move(self) -> None:
        self.fault = None
        self._fire()

    def publish(self) -> None:
        self.published = True
        self.fault = None
        self._fire()

    def failed(self, fault: Fault, message: str) -> None:
        self.fault, self.message = fault, message
        self._fire()

    def _fire(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Question:
    """One who waits to hear what a reference means."""

    def __init__(self) -> None:
        self.record: ImageRecord | None = None
        self.fault: Fault | None = None
        self.message = ""
        self._answered = trio.Event()

    def answered(self, record: ImageRecord | None, fault: Fault | None, message: str) -> None:
        self.record, self.fault, self.message = record, fault, message
        self._answered.set()

    async def wait(self) -> None:
        await self._answered.wait()
