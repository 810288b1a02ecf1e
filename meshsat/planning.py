"""Planning: what `fleet/planner.py` reckons with, gathered at this node: what images are, who holds what, and
how fast lines were.

To know what an image is, its manifests are brought here: from the store or peers, else over the WAN, which is
told. Nothing else is fetched. Of disks and limits only this node's own are known; peers' rooms are not.
"""

import os
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
import trio
from prometheus_client import Counter

from meshsat.errors import InvalidInputError, MeshsatError
from meshsat.fleet.document import DesiredImage, DesiredState, parse_state_untrusted
from meshsat.fleet.placement import Candidate
from meshsat.fleet.planner import Asked, Means, Node, Plan, limits_of, make_plan
from meshsat.limits import Period
from meshsat.mesh.service import Mesh
from meshsat.oci.digest import Digest
from meshsat.pull_through import PullThrough
from meshsat.pulling import Pulling, Tree
from meshsat.store.store import Store
from meshsat.trust.keys import PeerId
from meshsat.uplink.client import Uplink
from meshsat.uplink.measured import Measured

log = structlog.get_logger(__name__)

IMAGES_LIMIT = 500
"""Images of one plan: the manifests of each are brought for it."""
AT_ONCE = 4
"""Images whose manifests are brought at a time."""
LAN_LOOK = 1.0
"""Seconds between two looks at what came from peers."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan as it comes about: how many images are known, and at last what it takes."""

    known: int
    of: int
    plan: Plan | None = None
    manifest_bytes: int = 0
    """That went over the WAN for it."""


@dataclass(frozen=True, slots=True)
class Self:
    """What is this node's own."""

    peer: PeerId
    name: str
    site: str
    roles: Collection[str]
    data_dir: Path
    unix: Callable[[], float]


class Planning:
    """`roles_of` tells the roles of a peer."""

    def __init__(
        self,
        own: Self,
        store: Store,
        mesh: Mesh,
        pulling: Pulling,
        policy: PullThrough,
        uplink: Uplink | None,
        lan_in: Counter,
    ) -> None:
        self._own = own
        self._store = store
        self._mesh = mesh
        self._pulling = pulling
        self._policy = policy
        self._uplink = uplink
        self._lan_in = lan_in
        self._lan = Measured(pause=1.5 * LAN_LOOK)
        self.roles_of: Callable[[PeerId], Collection[str]] = lambda _peer: ()
        self.budget: Callable[[], int | None] = lambda: None
        """Bytes that the disk budget leaves once all that may go is gone; None: there is none."""

    def room(self) -> int | None:
        """Bytes that this node can take; None: nobody can tell."""
        left = self.budget()
        if left is not None:
            return left
        try:
            disk = os.statvfs(self._own.data_dir)
        except OSError:
            return None
        return disk.f_bavail * disk.f_frsize

    async def run(self) -> None:
        """Run until cancelled: see how fast peers are."""
        before = _total(self._lan_in)
        while True:
            await trio.sleep(LAN_LOOK)
            total = _total(self._lan_in)
            if total > before:
                self._lan.came(total - before, trio.current_time())
            before = total

    async def plan(self, state: DesiredState) -> AsyncGenerator[Planned, None]:
        """What it would take to hold what the state wants of this site; something at least once a second."""
        wan = limits_of(state.limits_for(self._own.site))
        images = state.images_for(self._own.site)
        trees: list[Tree] = [Tree(image.platforms) for image in images]
        faults: list[str] = [""] * len(images)
        spent = self._manifest_bytes()
        known = 0

        async def learn(number: int) -> None:
            nonlocal known
            async with room:
                faults[number] = await self._learn(images[number], trees[number])
                known += 1

        room = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for number in range(len(images)):
                nursery.start_soon(learn, number)
            while known < len(images):
                yield Planned(known, len(images))
                await trio.sleep(min(1.0, 0.05 * (1 + len(images))))
        asked = [_asked(image, tree, fault) for image, tree, fault in zip(images, trees, faults, strict=True)]
        means = self._means()
        if wan is not None:
            means = replace(means, limits=(*means.limits, wan))
        parts = {digest for one in asked for digest in one.parts}
        plan = await trio.to_thread.run_sync(make_plan, asked, self._nodes(parts), means)
        yield Planned(known, len(images), plan, self._manifest_bytes() - spent)

    async def _learn(self, image: DesiredImage, tree: Tree) -> str:
        """Bring its manifests; why that can't be, if so."""
        reference = image.parsed
        try:
            with self._policy.lifted(reference.registry, reference.repository):
                async with aclosing(self._pulling.survey(tree, reference)) as growing:
                    async for _ in growing:
                        pass
        except MeshsatError as failed:
            log.info("it can't be told what an image is", image=image.reference, problem=str(failed))
            tree.parts.clear()
            return str(failed)
        return ""

    def _manifest_bytes(self) -> int:
        if self._uplink is None:
            return 0
        kinds = self._uplink.meter.accounts.by_kind()
        return sum(sum(kinds.get(kind, (0, 0))) for kind in ("manifest", "token"))

    def _means(self) -> Means:
        up = self._mesh.machine.site_has_uplink()
        if self._uplink is None:
            return Means(self._own.unix(), up, 0.0, self._lan.rate)
        meter = self._uplink.meter
        spent: dict[tuple[Period, str], int] = {
            (one.period, one.timezone): one.spent for one in meter.allowance.quotas()
        }
        # Shut for now is not gone: windows and quotas are what the plan goes through.
        return Means(
            self._own.unix(),
            True,
            meter.measured.rate,
            self._lan.rate,
            meter.allowance.limits,
            spent,
        )

    def _nodes(self, parts: set[Digest]) -> Sequence[Node]:
        own = Candidate(self._own.peer, frozenset(self._own.roles))
        nodes = [Node(own, self._own.name, _among(self._store.blobs(), parts), self.room())]
        for peer, session in sorted(self._mesh.machine.sessions.items()):
            candidate = Candidate(peer, frozenset(self.roles_of(peer)))
            nodes.append(Node(candidate, session.name or peer, _among(session.holds, parts)))
        return nodes


def read_state_untrusted(raw: bytes) -> DesiredState:
    """One that a plan can be made for. Raises `InvalidInputError`."""
    state = parse_state_untrusted(raw)
    if len(state.images) > IMAGES_LIMIT:
        raise InvalidInputError(f"a plan is for at most {IMAGES_LIMIT} images; this has {len(state.images)}")
    return state


def _among(held: Mapping[Digest, int], parts: set[Digest]) -> dict[Digest, int]:
    return {digest: held[digest] for digest in parts if digest in held}


def _asked(image: DesiredImage, tree: Tree, fault: str) -> Asked:
    return Asked(
        image.name,
        {digest: part.size for digest, part in tree.parts.items()},
        tree.name,
        frozenset(image.roles),
        image.copies,
        image.not_before,
        image.deadline,
        fault,
    )


def _total(counter: Counter) -> int:
    samples = (sample for family in counter.collect() for sample in family.samples)
    return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))
