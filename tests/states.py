"""A node's `States` for tests: bodies in memory, no threads, every event kept."""

import random
from collections.abc import Callable
from pathlib import Path

import trio

from meshsat.errors import StorageFullError, UnavailableError
from meshsat.fleet.document import encode_state, state_of
from meshsat.fleet.state_file import StateFile
from meshsat.fleet.states import Accepted, Settings, States
from meshsat.oci.digest import Digest
from meshsat.protocol.events import Event
from meshsat.store.disk import Threads
from tests.authors import GRACE, NOW, Signers, key_of


class Bodies:
    """`fleet.states.Bodies`: what peers hold, and what this node gives them."""

    def __init__(self) -> None:
        self.there: dict[Digest, bytes] = {}
        self.asked = 0
        self.kept: Digest | None = None
        self.full = False

    async def fetch(self, digest: Digest, size: int) -> bytes:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if digest not in self.there:
            raise UnavailableError("no peer has it")
        return self.there[digest]

    async def keep(self, digest: Digest, body: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.full:
            raise StorageFullError("no room left in the store")
        self.kept = digest


class Holder:
    """A node, as far as its states go. Events that it feeds the mesh are in `fed`."""

    def __init__(
        self,
        directory: Path,
        signers: Signers | None = None,
        *,
        unix: Callable[[], float] = lambda: NOW,
        feed: Callable[[Event], None] | None = None,
    ) -> None:
        self.signers = signers or Signers()
        self.fed: list[Event] = []
        self.bodies = Bodies()
        self.accepted: list[Accepted] = []
        settings = Settings(self.signers.fleet, key_of(self.signers.anchor).peer_id, GRACE)
        self.states = States(
            directory,
            settings,
            self.bodies,
            feed or self.fed.append,
            unix,
            random.Random(1),
            threads=Threads(0),
        )
        self.states.on_accepted = self.accepted.append

    @property
    def in_force(self) -> int | None:
        return self.states.in_force.version if self.states.in_force is not None else None


def body(*references: str) -> bytes:
    return encode_state(state_of({"images": [{"reference": one} for one in references]}))


def state_file(signers: Signers, version: int = 1) -> StateFile:
    """Root 1, a head of this version and its body."""
    raw = body(f"r.example/a:{version}")
    return StateFile((signers.first(),), signers.head(version, body=raw), raw)
