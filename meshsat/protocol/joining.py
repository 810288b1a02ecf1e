"""Neighbouring frames of one kind, said in one: a thousand wants cost little more than one."""

from collections import deque
from collections.abc import Callable
from typing import TypeVar

from meshsat.protocol import wire

T = TypeVar("T")


def next_frame(frames: deque[wire.Frame]) -> wire.Frame:
    """Takes the first frame off the queue, which must not be empty, and what can be said along with it."""
    match frames.popleft():
        case wire.Have() as have:
            return _haves(have, frames)
        case wire.Want(blobs, sources):
            return wire.Want(_with(blobs, frames, lambda more: _wishes(more, sources)), sources)
        case wire.Holds(held):
            return wire.Holds(
                _with(held, frames, lambda more: more.blobs if isinstance(more, wire.Holds) else None)
            )
        case wire.Unwant(unwanted):
            return wire.Unwant(
                _with(unwanted, frames, lambda more: more.blobs if isinstance(more, wire.Unwant) else None)
            )
        case alone:
            return alone


def _wishes(frame: wire.Frame, sources: tuple[wire.Source, ...]) -> tuple[wire.Wish, ...] | None:
    return frame.blobs if isinstance(frame, wire.Want) and frame.sources == sources else None


def _with(
    items: tuple[T, ...], frames: deque[wire.Frame], items_of: Callable[[wire.Frame], tuple[T, ...] | None]
) -> tuple[T, ...]:
    """These items, and those of the frames behind that are alike (`items_of` gives them), as many as one
    frame holds; their frames are taken off the queue."""
    whole = list(items)
    while frames:
        more = items_of(frames[0])
        if more is None or len(whole) + len(more) > wire.LIST_LIMIT:
            break
        whole.extend(more)
        frames.popleft()
    return tuple(whole)


def _haves(have: wire.Have, frames: deque[wire.Frame]) -> wire.Have:
    bits, length = int.from_bytes(have.bits, "little"), len(have.bits)
    while frames and isinstance(more := frames[0], wire.Have) and more.blob == have.blob:
        bits |= int.from_bytes(more.bits, "little")
        length = max(length, len(more.bits))
        frames.popleft()
    return wire.Have(have.blob, bits.to_bytes(length, "little"))
