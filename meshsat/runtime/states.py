"""How it stands with a runtime:
whether its pulls come to the node, and what an operator should do about it.
"""

from dataclasses import dataclass
from enum import StrEnum

from meshsat.errors import MeshsatError
from meshsat.runtime.apply import Applier
from meshsat.runtime.catalog import Runtime
from meshsat.runtime.detect import started_at
from meshsat.runtime.disk import Disk
from meshsat.runtime.record import INSTALLED, Record, Records, sum_of


class State(StrEnum):
    NONE = "not configured"
    CONFIGURED = "configured"
    OUTDATED = "outdated"
    """Other files changed, and an install would now write something else."""
    EDITED = "changed by hand"
    INTERRUPTED = "interrupted"
    BROKEN = "broken"
    """The files or the record cannot be read, or our lines were edited."""


@dataclass(frozen=True, slots=True)
class Standing:
    state: State
    node: str | None = None
    """URL of the node that it was installed for."""
    files: tuple[str, ...] = ()
    """Files that hold something of ours."""
    why: str = ""
    """What to do."""
    wake_pending: bool = False
    """Its daemon has not read the files yet."""


def standing(runtime: Runtime, disk: Disk, records: Records, applier: Applier) -> Standing:
    """How it stands with `runtime`."""
    try:
        record = records.load(runtime.place)
        if record is None or runtime.name not in record.runtimes:
            return Standing(State.NONE)
        files = tuple(entry.path for entry in record.entries)
        state, why = _state(record, runtime, disk, applier)
        return Standing(state, record.mirror.url, files, why, wake_pending(record, runtime))
    except MeshsatError as fault:
        return Standing(State.BROKEN, why=str(fault))


def wake_pending(record: Record, runtime: Runtime) -> bool:
    """Whether the daemon still runs on what its files were before."""
    if runtime.wake is None or runtime.name not in record.waking:
        return False
    started = started_at(runtime.wake.processes)
    return started is not None and started < record.since


def _state(record: Record, runtime: Runtime, disk: Disk, applier: Applier) -> tuple[State, str]:
    again = f"run: meshsat runtime install {runtime.name}"
    if record.phase != INSTALLED:
        return State.INTERRUPTED, f"{again} (or uninstall)"
    applier.without(runtime.place, record)  # raises where our own lines were edited
    edited = [entry.path for entry in record.entries if sum_of(disk.read(entry.path)) != entry.ours]
    changes = applier.install(runtime.place, record.runtimes, record.mirror, dry=True).changes
    if edited:
        lost = f"; the node is not first any more: {again}" if changes else ""
        return State.EDITED, f"{', '.join(edited)} was edited since the install{lost}"
    if changes:
        return State.OUTDATED, again
    return State.CONFIGURED, ""
