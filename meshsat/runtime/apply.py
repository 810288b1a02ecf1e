"""Makes plans true, and takes them back: the files of one place, all or none, whatever interrupts it.

Laws. What files would be *without* meshsat is known at every moment: for each file the record names the
contents that may be met and what each would be without ours. So an interrupted run needs no repair of its
own: the next install or uninstall finds out what is there and goes on from that. A file that somebody edited
since loses our lines only; where the edit is among our lines, nothing is touched and `StorageError` says so.
When a write fails, what was written before it is put back.
"""

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from meshsat.errors import InvalidInputError, StorageError
from meshsat.runtime.catalog import PLANNERS, RUNTIMES
from meshsat.runtime.disk import Disk
from meshsat.runtime.formats import parse_json_untrusted, parse_toml_untrusted, parse_yaml_untrusted
from meshsat.runtime.plans import Mirror, Plan
from meshsat.runtime.record import INSTALLED, INSTALLING, UNINSTALLING, Entry, Record, Records, Sum, sum_of
from meshsat.runtime.unmerge import take_back

PARSERS = {
    ".toml": parse_toml_untrusted,
    ".conf": parse_toml_untrusted,
    ".yaml": parse_yaml_untrusted,
    ".json": parse_json_untrusted,
}


@dataclass(frozen=True, slots=True)
class Change:
    """A file that is not as it should be. None: no such file."""

    path: str
    now: bytes | None
    then: bytes | None


@dataclass(frozen=True, slots=True)
class Outcome:
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()
    waking: tuple[str, ...] = ()
    """Runtimes that have to read their files again."""
    repaired: bool = False
    """An earlier run had been interrupted."""


class Overlay:
    """A `View` of the disk as it would be without meshsat."""

    def __init__(self, disk: Disk, without: Mapping[str, bytes | None], directories: Sequence[str]) -> None:
        self._disk = disk
        self._without = without
        self._directories = frozenset(directories)

    def read(self, path: str) -> bytes | None:
        return self._without[path] if path in self._without else self._disk.read(path)

    def names(self, directory: str) -> tuple[str, ...]:
        there = (f"{directory}/{name}" for name in self._disk.names(directory))
        return tuple(path[len(directory) + 1 :] for path in there if not self._is_ours(path))

    def _is_ours(self, path: str) -> bool:
        if path in self._without:
            return self._without[path] is None
        return path in self._directories and not self.names(path)


class Applier:
    """Of one root."""

    def __init__(self, disk: Disk, records: Records, clock: Callable[[], float]) -> None:
        self._disk = disk
        self._records = records
        self._clock = clock

    def install(self, place: str, runtimes: Sequence[str], mirror: Mirror, *, dry: bool = False) -> Outcome:
        """Have `runtimes` pull by way of `mirror`. `dry`: only say what would change.

        Raises `InvalidInputError`, `StorageError`; nothing is changed then.
        """
        record = self._records.load(place)
        without = self.without(place, record)
        directories = record.directories if record else ()
        view = Overlay(self._disk, without, directories)
        plan = PLANNERS[place](view, mirror)
        goals = dict(without)
        goals |= plan.files
        befores = {path: view.read(path) for path in goals}
        changes = self._changes(goals)
        made = [one for path in plan.files for one in self._disk.missing_directories(path)]
        names = tuple(sorted({*runtimes, *(record.runtimes if record else ())}))
        waking = self._waking(record, names, plan, changes)
        outcome = Outcome(changes, plan.notes, waking, record is not None and record.phase != INSTALLED)
        if dry:
            return outcome
        entries = tuple(
            Entry(path, sum_of(befores[path]), sum_of(goals[path]))
            for path in goals
            if goals[path] != befores[path]
        )
        done = Record(
            INSTALLED,
            names,
            mirror,
            entries,
            tuple(one for one in dict.fromkeys((*directories, *made)) if _holds(one, entries)),
            waking,
            tuple(sorted(plan.read_at_start)),
            self._clock() if changes or record is None else record.since,
        )
        if changes or (done != record and (entries or record is not None)):
            self._go(place, record, done, INSTALLING, changes, befores, goals)
        return outcome

    def uninstall(self, place: str, runtimes: Sequence[str], *, dry: bool = False) -> Outcome:
        """Take away what was installed for `runtimes`. Raises `StorageError`; nothing is changed then."""
        record = self._records.load(place)
        if record is None:
            if not dry:
                self._records.forget_content(place, None)  # of a run that was killed before it had a record
            return Outcome(())
        left = tuple(name for name in record.runtimes if name not in runtimes)
        if left:
            gone = [name for name in record.runtimes if name in runtimes]
            if not dry and gone:
                self._records.save(place, replace(record, runtimes=left))
            who = f"{', '.join(left)} read the same files, and it is installed for them: the files stay"
            return Outcome((), (who,) if gone else ())
        without = self.without(place, record)
        changes = self._changes(dict(reversed(without.items())))
        edited = [path for path, data in without.items() if sum_of(data) not in _known(record, path)]
        notes = tuple(
            f"{path} was edited since the install: your edits are kept, ours are taken out" for path in edited
        )
        waking = tuple(
            name for name in record.runtimes if _has_daemon(name) and _touches(changes, record.read_at_start)
        )
        outcome = Outcome(changes, notes, waking, record.phase != INSTALLED)
        if not dry:
            self._go(place, record, None, UNINSTALLING, changes, without, without)
        return outcome

    def forget_waking(self, place: str, runtime: str) -> None:
        """`runtime` has read its files again."""
        record = self._records.load(place)
        if record is not None and runtime in record.waking:
            self._records.save(place, replace(record, waking=tuple(n for n in record.waking if n != runtime)))

    def without(self, place: str, record: Record | None) -> dict[str, bytes | None]:
        """The files of `record` as they would be without meshsat. Raises `StorageError`:
        an edit among our lines.
        """
        return {entry.path: self._without(place, entry) for entry in record.entries} if record else {}

    def _without(self, place: str, entry: Entry) -> bytes | None:
        now = self._disk.read(entry.path)
        found = sum_of(now)
        for without, ours in entry.pairs:
            if found in (without, ours):
                return self._records.content(place, without)
        if now is None:
            return None  # somebody removed it
        for without, ours in entry.pairs:
            was, made = self._records.content(place, without), self._records.content(place, ours)
            if made is None:
                continue
            left = take_back(was or b"", made, now)
            if left is not None and _is_sound(entry.path, left):
                return left if left.strip() or was is not None else None
        raise StorageError(
            f"{entry.path} was edited among the lines that meshsat wrote, and it cannot tell whose is"
            " what: take"
            " out those that name the node by hand, then run this again; nothing was changed"
        )

    def _changes(self, goals: Mapping[str, bytes | None]) -> tuple[Change, ...]:
        read = ((path, self._disk.read(path), goal) for path, goal in goals.items())
        return tuple(Change(path, now, goal) for path, now, goal in read if now != goal)

    @staticmethod
    def _waking(
        record: Record | None, names: Sequence[str], plan: Plan, changes: Sequence[Change]
    ) -> tuple[str, ...]:
        was = record.waking if record else ()
        joined = {name for name in names if record is None or name not in record.runtimes}
        now = set(names) if _touches(changes, plan.read_at_start) else joined if record else set()
        return tuple(name for name in names if name in was or (name in now and _has_daemon(name)))

    def _go(
        self,
        place: str,
        record: Record | None,
        done: Record | None,
        phase: str,
        changes: Sequence[Change],
        befores: Mapping[str, bytes | None],
        goals: Mapping[str, bytes | None],
    ) -> None:
        """Write the journal, the files, and the record of what is then."""
        made = done.directories if done else ()
        keep = self._records.keep
        for path in goals:
            keep(place, befores[path])
            keep(place, goals[path])
            keep(place, self._disk.read(path))
        journal = replace(
            done or record or _nothing(),
            phase=phase,
            directories=tuple(dict.fromkeys((*(record.directories if record else ()), *made))),
            entries=tuple(
                Entry(
                    path,
                    sum_of(befores[path]),
                    sum_of(goals[path]),
                    ((sum_of(befores[path]), self._sum(path)),),
                )
                for path in goals
            ),
            since=self._clock(),
        )
        self._records.save(place, journal)
        for directory in {posixpath.dirname(path) for path in goals}:
            self._disk.sweep(directory)
        written: list[Change] = []
        try:
            for directory in made:
                self._disk.make_directory(directory)
            for change in changes:
                self._expect(change)
                written.append(change)
                self._put(change.path, change.then)
        except StorageError as fault:
            self._put_back(place, record, journal, written, fault)
            raise
        if done is None:
            self._remove_directories(journal.directories)
            self._records.drop(place)
        else:
            self._remove_directories([one for one in journal.directories if one not in done.directories])
            self._records.save(place, done)
            self._records.forget_content(place, done)

    def _put_back(
        self,
        place: str,
        record: Record | None,
        journal: Record,
        written: Sequence[Change],
        fault: StorageError,
    ) -> None:
        try:
            for change in reversed(written):
                if self._disk.read(change.path) != change.now:
                    self._put(change.path, change.now)
            if record is None:
                self._remove_directories(journal.directories)
                self._records.drop(place)
            else:
                self._records.save(place, record)
        except StorageError as worse:
            raise StorageError(f"{fault}; and not all could be put back ({worse}): run this again") from None

    def _expect(self, change: Change) -> None:
        if self._disk.read(change.path) != change.now:
            raise StorageError(f"{change.path} was changed by somebody else just now; run this again")

    def _put(self, path: str, data: bytes | None) -> None:
        if data is None:
            self._disk.remove(path)
        else:
            self._disk.write(path, data)

    def _remove_directories(self, directories: Sequence[str]) -> None:
        for directory in reversed(directories):
            self._disk.remove_directory(directory)

    def _sum(self, path: str) -> Sum:
        return sum_of(self._disk.read(path))


def _nothing() -> Record:
    return Record(INSTALLING, (), Mirror(""), (), ())


def _holds(directory: str, entries: Sequence[Entry]) -> bool:
    return any(entry.path.startswith(f"{directory}/") for entry in entries)


def _known(record: Record, path: str) -> set[Sum]:
    return {without for entry in record.entries if entry.path == path for without, _ in entry.pairs}


def _is_sound(path: str, data: bytes) -> bool:
    """Whether what is left of a file can still be read."""
    parse = next((parse for suffix, parse in PARSERS.items() if path.endswith(suffix)), None)
    try:
        if parse is not None:
            parse(path, data)
    except InvalidInputError:
        return False
    return True


def _touches(changes: Sequence[Change], paths: Sequence[str] | frozenset[str]) -> bool:
    return any(change.path in paths for change in changes)


def _has_daemon(name: str) -> bool:
    return any(runtime.name == name and runtime.wake is not None for runtime in RUNTIMES)
