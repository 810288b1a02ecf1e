"""Neighbouring frames of one kind, said in one: a thousand wants cost little more than one."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from meshsat.protocol import wire


def next_frame(frames: deque[wire.Frame]) -> wire.Frame:
    """Takes the first frame off the queue, which must not be empty, and what can be said along with it."""
    first = frames.popleft()
    if not isinstance(first, wire.Have | wire.Want | wire.Holds | wire.Unwant):
        return first
    run, length = [first], _length(first)
    while (
        frames and _alike(first, more := frames[0]) and (length := length + _length(more)) <= wire.LIST_LIMIT
    ):
        run.append(more)  # type: ignore[arg-type]  # alike
        frames.popleft()
    return first if len(run) == 1 else _joined(first, run)


def _length(frame: wire.Frame) -> int:
    return len(frame.blobs) if isinstance(frame, wire.Want | wire.Holds | wire.Unwant) else 0


def _alike(first: wire.Frame, other: wire.Frame) -> bool:
    if type(first) is not type(other):
        return False
    match first, other:
        case wire.Have(), wire.Have():
            return first.blob == other.blob
        case wire.Want(), wire.Want():
            return first.sources == other.sources
    return True


def _joined(first: wire.Frame, run: Sequence[wire.Frame]) -> wire.Frame:
    if isinstance(first, wire.Have):
        haves = [one.bits for one in run if isinstance(one, wire.Have)]
        bits = 0
        for one in haves:
            bits |= int.from_bytes(one, "little")
        return wire.Have(first.blob, bits.to_bytes(max(map(len, haves)), "little"))
    return replace(first, blobs=tuple(blob for one in run for blob in getattr(one, "blobs", ())))  # type: ignore[call-arg]
