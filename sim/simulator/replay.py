"""Runs a machine over the trace of a real node, and says whether it does what that node did.

Law: the machine is the shipped one, with the recorded settings and seed. It has not the node's key: what that
signed is in the trace, and is handed out again in the same order. Signatures of others are checked.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from meshsat.oci.digest import Digest
from meshsat.protocol import effects, events
from meshsat.protocol.effects import Effect
from meshsat.protocol.machine import Machine
from meshsat.protocol.trace import (
    Addressed,
    EffectsHash,
    Ended,
    Happened,
    Learned,
    Started,
    decode_untrusted,
)
from meshsat.protocol.wire import Frame
from meshsat.trust.keys import SIGNATURE_LENGTH

SHOWN = 64
"""Characters of a text or of bytes in hexadecimal that are shown of a field."""


@dataclass(frozen=True, slots=True)
class Step:
    """One event of the trace, and what the machine did about it here."""

    number: int
    at: float
    """Seconds since the first event."""
    event: events.Event
    effects: tuple[Effect, ...]
    departs: bool
    """What the machine did so far is not what was recorded."""
    fault: str | None = None
    """The machine failed here; what it raised."""


@dataclass(slots=True)
class Replay:
    """Figures of a trace; whole when `steps` has come to its end."""

    version: str = ""
    name: str = ""
    peer: str = ""
    ended: str = ""
    seconds: float = 0.0
    events: Counter[str] = field(default_factory=Counter)
    effects: Counter[str] = field(default_factory=Counter)
    frames_in: Counter[str] = field(default_factory=Counter)
    frames_out: Counter[str] = field(default_factory=Counter)
    records: int = 0
    departed: Step | None = None
    """The first event at which the machine did something else than was recorded."""
    failed: bool = False
    """The machine raised something, and the replay ended there."""

    def steps(self, data: bytes) -> Iterator[Step]:
        """Run over the trace. Raises `TraceError`, where the trace is malformed."""
        entries = decode_untrusted(data)
        started = next(entries)
        assert isinstance(started, Started)  # noqa: S101 - decode_untrusted's promise
        self.version, self.name, self.peer = started.version, started.settings.name, started.settings.me
        rng = random.Random(started.seed)  # noqa: S311 - as in the node
        signatures: list[bytes] = []

        machine = Machine(started.settings, lambda _message: _next(signatures), rng)
        done, began, number = EffectsHash(), 0.0, 0
        for entry in entries:
            match entry:
                case Addressed():
                    machine.addresses = (entry.control, entry.bulk)
                case Learned():
                    self.records += len(machine.take_records(list(entry.records)))
                case Ended():
                    self.ended = entry.reason
                case Happened():
                    began = began if number else entry.at
                    signatures[:] = entry.signatures
                    step = _step(machine, entry, number, entry.at - began, done)
                    self._count(step)
                    yield step
                    number += 1
                    if step.fault is not None:
                        self.failed = True
                        self.ended = f"the machine failed: {step.fault}"
                        return

    def _count(self, step: Step) -> None:
        self.seconds = step.at
        self.events[type(step.event).__name__] += 1
        if isinstance(step.event, events.FrameReceived):
            self.frames_in[type(step.event.frame).__name__] += 1
        for effect in step.effects:
            self.effects[type(effect).__name__] += 1
            if isinstance(effect, effects.Send):
                self.frames_out[type(effect.frame).__name__] += 1
        if step.departs and self.departed is None:
            self.departed = step


def _next(signatures: list[bytes]) -> bytes:
    """What the key signed then; it signed nothing more where the machine does something else now."""
    return signatures.pop(0) if signatures else bytes(SIGNATURE_LENGTH)


def _step(machine: Machine, entry: Happened, number: int, at: float, done: EffectsHash) -> Step:
    try:
        did = tuple(machine.handle(entry.event, entry.at))
    except Exception as failed:  # noqa: BLE001 - what a trace of a failing machine is for
        fault = f"{type(failed).__name__}: {failed}"
        return Step(number, at, entry.event, (), departs=bool(entry.effects), fault=fault)
    departs = done.add(did) != entry.effects
    return Step(number, at, entry.event, did, departs)


def in_words(value: object) -> str:
    """An event, effect or frame on one line: `Send(to 12D3..Kf, Have(sha256:1f3a.., bits=ff03))`."""
    if not hasattr(value, "__dataclass_fields__") or isinstance(value, Digest):
        return _shown(value)
    parts = [f"{one.name}={_shown(getattr(value, one.name))}" for one in fields(value)]  # type: ignore[arg-type]  # as just seen
    return f"{type(value).__name__}({', '.join(parts)})"


def _shown(value: Any) -> str:
    shown: dict[type, Callable[[Any], str]] = {
        Digest: lambda one: f"{one.algorithm}:{one.hex[:12]}..",
        bytes: lambda one: one.hex()[:SHOWN] + (".." if len(one.hex()) > SHOWN else ""),
        float: lambda one: f"{one:.6g}",
        str: _short,
        tuple: lambda one: f"({', '.join(map(_shown, one[:8]))}{', ..' if len(one) > 8 else ''})",
    }
    if isinstance(value, Frame) or type(value).__module__.endswith("gossip"):
        return in_words(value)
    return shown.get(type(value), str)(value)


def _short(text: str) -> str:
    if text.startswith("12D3KooW"):
        return f"12D3..{text[-6:]}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}.."
