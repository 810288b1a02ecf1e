"""What desired tags mean on this node: asked by the registry, changed by reconcile.py, kept over restarts."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import structlog
import trio

from meshsat.errors import ConfigError, InvalidInputError
from meshsat.fleet.meanings import (
    MEANINGS_LIMIT,
    Key,
    Meaning,
    Meanings,
    decode_meanings_untrusted,
)
from meshsat.oci.digest import Digest
from meshsat.private_files import write_file

log = structlog.get_logger(__name__)

DIRECTORY = "fleet"
FILE = "meanings.json"


class DesiredTags:
    """`pulling.Desired`. `directory`: the data directory; None keeps nothing. `unix` gives Unix seconds."""

    def __init__(self, directory: Path | None, unix: Callable[[], float]) -> None:
        self._unix = unix
        self._path = None if directory is None else directory / DIRECTORY / FILE
        self._of = self._read().of
        self.unsaved = False
        self.ended: list[Key] = []
        """Whose last meaning is not kept any more; whoever frees what that leaves takes them out."""
        self.problem: str | None = None
        """Why they are not kept, if they are not."""

    # --- what the registry asks ---

    def meaning(self, registry: str, repository: str, tag: str) -> Digest | None:
        found = self._of.get((registry, repository, tag))
        return found.digest if found is not None and found.dropped_at is None else None

    def tags(self, registry: str, repository: str) -> list[str]:
        return [key[2] for key in self.active() if key[:2] == (registry, repository)]

    def registries(self, repository: str) -> set[str]:
        return {key[0] for key in self.active() if key[1] == repository}

    # --- what is known ---

    def active(self) -> Mapping[Key, Meaning]:
        return {key: one for key, one in self._of.items() if one.dropped_at is None}

    def kept(self, key: Key) -> Iterator[tuple[Digest, tuple[str, ...]]]:
        """What it means and meant, with the platforms that are held of it."""
        found = self._of.get(key)
        if found is not None:
            yield from ((digest, found.platforms) for digest in (found.digest, *found.before))

    def keys(self) -> Collection[Key]:
        return self._of.keys()

    # --- changes ---

    def drop_others(self, wanted: Collection[Key], version: int) -> list[Key]:
        """Tags that are not desired any more, from revision `version` of the state on, are left to their
        upstreams; what they meant is kept as long as earlier meanings would be. Returns which these are."""
        dropped: list[Key] = []
        for key, known in list(self._of.items()):
            if key in wanted:
                if known.dropped_at is not None:
                    self._of[key] = replace(known, dropped_at=None)
                    self.unsaved = True
            elif known.dropped_at is None:
                self._of[key] = replace(known, dropped_at=version)
                self.unsaved = True
                dropped.append(key)
            elif version - known.dropped_at >= known.keep:
                del self._of[key]
                self.ended.append(key)
                self.unsaved = True
        return dropped

    def change(self, key: Key, digest: Digest, platforms: tuple[str, ...], keep: int) -> Digest | None:
        """The tag means this from now on; returns what it meant."""
        known = self._of.get(key)
        self.unsaved = True
        if known is None:
            self._of[key] = Meaning(digest, self._unix(), platforms, keep=keep)
            return None
        self._of[key] = known.becomes(digest, self._unix(), platforms, keep)
        return known.digest if known.dropped_at is None else None

    # --- the disk ---

    def _read(self) -> Meanings:
        if self._path is None or not self._path.exists():
            return Meanings()
        try:
            with self._path.open("rb") as file:
                return decode_meanings_untrusted(file.read(MEANINGS_LIMIT + 1))
        except (OSError, InvalidInputError) as damaged:
            log.warning(
                "what desired tags meant is lost, and learned again from the desired state",
                file=str(self._path),
                problem=str(damaged),
            )
            return Meanings()

    async def save(self) -> None:
        """Keep them, if anything changed since."""
        if self._path is None or not self.unsaved:
            return
        self.unsaved = False
        data = Meanings(self._of).encode()
        try:
            await trio.to_thread.run_sync(write_file, self._path, data)
        except ConfigError as full:
            self.unsaved = True
            self.problem = f"what desired tags mean is not kept over a restart: {full}"
            log.warning("what desired tags mean is not kept over a restart", problem=str(full))
        else:
            self.problem = None
