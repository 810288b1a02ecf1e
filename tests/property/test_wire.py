"""What is encoded is decoded to the same, and within its limits."""

from hypothesis import given
from hypothesis import strategies as st

from meshsat.protocol import wire
from tests.frames import FRAME, KINDS


def test_every_frame_is_tried() -> None:
    assert {kind.__name__ for kind in KINDS} == {kind.__name__ for kind in wire.Frame.__subclasses__()}
    assert len({kind.type for kind in KINDS}) == len(KINDS)


@given(FRAME, st.integers(0, wire.PAYLOAD_LIMIT))
def test_decoding_is_the_inverse_of_encoding(frame: wire.Frame, payload: int) -> None:
    encoded = wire.encode(frame, payload)
    assert wire.decode_lengths_untrusted(encoded[:8]) == (len(encoded) - 8, payload)
    assert wire.decode_header_untrusted(encoded[8:]) == frame


@given(FRAME)
def test_one_frame_has_one_form(frame: wire.Frame) -> None:
    again = wire.decode_header_untrusted(wire.encode(frame)[8:])
    assert wire.encode(again) == wire.encode(frame)
