from hypothesis import given

from meshsat.protocol import wire
from sim.simulator.sizes import encoded_length
from tests.frames import FRAME


@given(FRAME)
def test_a_frame_is_as_long_as_its_encoding(frame: wire.Frame) -> None:
    assert encoded_length(frame) == len(wire.encode(frame))
    assert encoded_length(frame) == len(wire.encode(frame))
