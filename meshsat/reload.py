"""Reload: read the configuration again while the node runs, and apply what can be applied.

The file, the environment and the flags of the start are read as at the start, by SIGHUP or through the API.
Laws: all of it is checked before any of it is applied, and is then applied in one step that nobody sees half
of; when something is wrong, what was in force stays, and the fault is told. What cannot change while the node
runs is told by name, and waits for a restart.

What can is in `live`: a table to which each part of the node adds its own.
"""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import structlog
import trio
from pydantic import BaseModel

from meshsat.config import Config
from meshsat.errors import ConfigError

log = structlog.get_logger(__name__)

Commit = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Live:
    """Settings that can change while the node runs."""

    keys: tuple[str, ...]
    """Names as in docs/reference/config.md; a section's name stands for all in it."""
    prepare: Callable[[Config], Commit]
    """Check, and make ready; raises `ConfigError`. What it returns puts it in force, waits for nothing and
    cannot fail."""

    def covers(self, name: str) -> bool:
        return any(name == key or name.startswith(f"{key}.") for key in self.keys)


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Names of settings."""

    changed: tuple[str, ...]
    """In force now."""
    restart: tuple[str, ...]
    """Other than when the node was started; they wait for a restart."""


@dataclass(slots=True)
class Reloader:
    config: Config
    """What was read last and applied as far as it could be."""
    load: Callable[[], Config]
    """Reads it as at the start. Raises `ConfigError`."""
    live: list[Live] = field(default_factory=list)
    fault: str | None = None
    """Why the last reload changed nothing."""
    restart: tuple[str, ...] = ()
    _started: dict[str, Any] = field(init=False)
    _turn: trio.Lock = field(default_factory=trio.Lock)

    def __post_init__(self) -> None:
        self._started = dict(flat(self.config))

    async def reload(self) -> Reloaded:
        """Raises `ConfigError`; then nothing is changed."""
        async with self._turn:
            try:
                config = await trio.to_thread.run_sync(self.load)
                done = self._apply(config)
            except ConfigError as fault:
                self.fault = str(fault)
                log.error("configuration not reloaded", problem=self.fault)  # noqa: TRY400 - no trace of ours
                raise
            self.fault = None
            log.info("configuration reloaded", changed=done.changed, restart=done.restart)
            return done

    def _apply(self, config: Config) -> Reloaded:
        before, after = dict(flat(self.config)), dict(flat(config))
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        touched = [one for one in self.live if any(map(one.covers, changed))]
        commits = [one.prepare(config) for one in touched]
        for commit in commits:
            commit()
        self.config = config
        applied = {name for name in changed if any(one.covers(name) for one in self.live)}
        other = {name for name in self._started.keys() | after.keys() if not self._is_live(name)}
        self.restart = tuple(sorted(name for name in other if self._started.get(name) != after.get(name)))
        return Reloaded(tuple(sorted(applied)), self.restart)

    def _is_live(self, name: str) -> bool:
        return any(one.covers(name) for one in self.live)

    def problem(self) -> str | None:
        """What an operator should know."""
        if self.fault is not None:
            return f"the configuration could not be read again, the one of before is in force: {self.fault}"
        if self.restart:
            return f"changed in the configuration, and waiting for a restart: {', '.join(self.restart)}"
        return None

    async def run(self) -> None:
        """Run until cancelled: reload on SIGHUP."""
        with trio.open_signal_receiver(signal.SIGHUP) as signals:
            async for _ in signals:
                try:
                    await self.reload()
                except ConfigError:
                    continue  # told in the log, and in the status


def flat(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its name; a list of tables is one."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
