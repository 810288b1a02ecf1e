import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsat.cbor import decode_cbor_untrusted
from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from meshsat.protocol import effects, events
from meshsat.protocol.events import Fault
from meshsat.protocol.machine import Settings
from meshsat.protocol.plain import form_of, outline
from tests.brain import Blob, peer
from tests.happenings import any_of


@dataclasses.dataclass(frozen=True)
class Pair:
    left: int
    right: str


@dataclasses.dataclass(frozen=True)
class Odd:
    field: dict[str, int]


def test_an_event_is_a_list_of_plain_values() -> None:
    blob = Blob()
    stored = events.ChunkStored(blob.digest, 3, b"\1" * 32, None)
    assert form_of(events.ChunkStored).write(stored) == [str(blob.digest), 3, b"\1" * 32, None]
    opened = events.TransferOpened(blob.digest, ((1, b"x"),))
    assert form_of(events.TransferOpened).write(opened) == [str(blob.digest), [[1, b"x"]]]


@given(any_of(Settings))
def test_settings_come_back_as_they_were(settings: Settings) -> None:
    form = form_of(Settings)
    assert form.read(form.write(settings)) == settings


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (bool, 1),
        (int, True),
        (int, 2**64),
        (float, 1),
        (float, float("nan")),
        (str, b"text"),
        (bytes, "text"),
        (Digest, "sha256:0"),
        (Digest, None),
        (events.SessionClosed, ["nobody"]),
        (events.SessionClosed, []),
        (events.SessionClosed, [peer("a"), 1]),
        (events.SessionClosed, None),
        (events.FrameReceived, [peer("a"), b"no frame"]),
        (events.FrameReceived, [peer("a"), "text"]),
        (Fault, 99),
        (Fault, "NOT_FOUND"),
        (tuple[int, ...], 1),
        (tuple[int, ...], ["1"]),
        (tuple[int, str], [1]),
        (Pair, [1, 2]),
    ],
)
def test_what_is_not_of_the_type_is_refused(declared: Any, value: Any) -> None:
    with pytest.raises(InvalidInputError):
        form_of(declared).read(value)


@given(st.none() | st.integers(0, 9))
def test_what_may_be_absent_may_be_absent(value: int | None) -> None:
    form = form_of(int | None)
    assert form.read(form.write(value)) == value


def test_a_type_without_a_form_is_found_at_once() -> None:
    with pytest.raises(TypeError, match="no plain form"):
        form_of(Odd)


def test_the_outline_tells_names_fields_and_types() -> None:
    assert outline([Pair]) == "Pair(left: <class 'int'>, right: <class 'str'>)"
    assert outline([effects.Publish]) != outline([effects.LoadRecipe])


def test_a_frame_keeps_its_bytes() -> None:
    frame = Blob().want()
    form = form_of(events.FrameReceived)
    written = form.write(events.FrameReceived(peer("a"), frame))
    assert decode_cbor_untrusted(written[1])[0] == frame.type
    assert form.read(written).frame == frame
