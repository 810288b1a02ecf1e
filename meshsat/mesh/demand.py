"""What somebody on this node waits for: a blob, or the answer what a reference means."""

import trio

from meshsat.oci.digest import Digest
from meshsat.protocol.events import Fault
from meshsat.protocol.gossip import ImageRecord


class Signal:
    """Fires again and again; whoever waits looks at the state of things afterwards."""

    def __init__(self) -> None:
        self.published = 0
        """Blobs that were published."""
        self._event = trio.Event()

    def fire(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class Demand:
    """One interest in one blob. Its signal fires at every step; several demands may share one."""

    def __init__(self, blob: Digest, size: int, signal: Signal | None = None) -> None:
        self.blob = blob
        self.size = size
        self.published = False
        self.fault: Fault | None = None
        """What went wrong last, if nothing came since."""
        self.message = ""
        self._signal = signal or Signal()

    async def changed(self) -> None:
        await self._signal.wait()

    def move(self) -> None:
        self.fault = None
        self._signal.fire()

    def publish(self) -> None:
        self.published = True
        self._signal.published += 1
        self.move()

    def failed(self, fault: Fault, message: str) -> None:
        self.fault, self.message = fault, message
        self._signal.fire()


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

    @property
    def done(self) -> bool:
        return self._answered.is_set()

    async def wait(self) -> None:
        await self._answered.wait()
