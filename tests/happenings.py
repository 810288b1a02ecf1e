"""Every event, effect and setting that there can be, for hypothesis: made from the types of their fields."""

from dataclasses import fields
from enum import IntEnum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from meshsat.oci.digest import Digest
from meshsat.protocol import wire
from meshsat.protocol.effects import Effect
from meshsat.protocol.events import Event
from meshsat.protocol.gossip import ImageRecord, seal
from meshsat.trust.keys import PeerId
from tests.brain import UNIX, Blob, key, peer
from tests.frames import DIGEST, FRAME

PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-5, 2**63),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=20),
    bytes: st.binary(max_size=40),
    PeerId: st.sampled_from(["a", "b", "c"]).map(peer),
    Digest: DIGEST,
    wire.Frame: FRAME,
}


def any_of(declared: Any) -> st.SearchStrategy[Any]:
    """Values of a declared type."""
    if declared in PLAIN:
        return PLAIN[declared]
    origin, arguments = get_origin(declared), get_args(declared)
    if origin in (Union, UnionType):
        return st.one_of(*(st.none() if one is NoneType else any_of(one) for one in arguments))
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return st.lists(any_of(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(any_of, arguments))
    if issubclass(declared, IntEnum):
        return st.sampled_from(declared)
    hints = get_type_hints(declared)
    return st.builds(declared, **{one.name: any_of(hints[one.name]) for one in fields(declared)})


EVENTS: dict[type, st.SearchStrategy[Any]] = {kind: any_of(kind) for kind in get_args(Event)}
EFFECTS: dict[type, st.SearchStrategy[Any]] = {kind: any_of(kind) for kind in get_args(Effect)}
EVENT = st.one_of(*EVENTS.values())
EFFECT = st.one_of(*EFFECTS.values())


def a_record(tag: str, author: str = "a") -> ImageRecord:
    return seal(
        key(author),
        registry="up.example",
        repository="library/pos",
        reference=tag,
        media_type="application/vnd.oci.image.manifest.v1+json",
        digest=Blob(tag).digest,
        size=400,
        resolved_at=UNIX,
    )
