"""What peers and the LAN send before they have proved anything: a value or the documented error, and no more."""

from collections.abc import Sequence
from contextlib import suppress
from math import inf

import trio
from hypothesis import given
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.mesh.discovery import Sighting, parse_sighting_untrusted
from meshsat.mesh.greeting import LENGTH, Greeting, encode_greeting, parse_greeting_untrusted
from meshsat.mesh.interfaces import join_address, split_address_untrusted
from meshsat.mesh.muxer import WINDOW, Limits, Muxer
from meshsat.mesh.transport import StreamBroken
from tests.unit.mesh.test_muxer import HEADER, Half, channel

CERTIFICATE = st.binary(min_size=1, max_size=300)
PROTOCOL = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=64)
TXT = st.dictionaries(
    st.sampled_from([b"v", b"fleet", b"peer", b"site", b"bulk", b"", b"\xff"]),
    st.one_of(st.none(), st.binary(max_size=300), st.sampled_from([b"1", b"4702", b"acme"])),
)
SMALL = st.integers(0, 5)
FRAME = st.builds(
    lambda version, kind, flags, number, length, body: (
        HEADER.pack(version, kind, flags, number, length) + body
    ),
    st.sampled_from([0] * 9 + [1]),
    SMALL,
    st.integers(0, 15),
    SMALL,
    st.one_of(SMALL, st.integers(0, 2**32 - 1)),
    st.binary(max_size=6),
)


@given(st.lists(CERTIFICATE, min_size=1, max_size=3), PROTOCOL)
def test_a_greeting_survives_the_wire(chain: list[bytes], protocol: str) -> None:
    body = encode_greeting(chain, protocol)[LENGTH.size :]
    assert parse_greeting_untrusted(body) == Greeting(tuple(chain), protocol)


@given(st.one_of(st.binary(max_size=400), st.binary(max_size=60).map(lambda rest: b"\x01\x00\x05" + rest)))
def test_a_greeting_is_read_or_refused(body: bytes) -> None:
    with suppress(InvalidInputError):
        greeting = parse_greeting_untrusted(body)
        assert encode_greeting(greeting.chain, greeting.protocol)[LENGTH.size :] == body


@given(st.text(max_size=60))
def test_an_address_is_read_or_none(text: str) -> None:
    target = split_address_untrusted(text)
    if target is not None:
        assert split_address_untrusted(join_address(*target)) == target


@given(TXT, st.lists(st.text(max_size=20), max_size=12), st.integers(-1, 2**17))
def test_an_announcement_is_read_or_refused(
    properties: dict[bytes, bytes | None], addresses: Sequence[str], port: int
) -> None:
    with suppress(InvalidInputError):
        assert isinstance(parse_sighting_untrusted(properties, addresses, port), Sighting)


@given(st.lists(st.one_of(FRAME, st.binary(min_size=1, max_size=30)), max_size=12))
def test_frames_break_nothing_and_fill_nothing(messages: list[bytes]) -> None:
    """The muxer lives or ends the connection; what it holds is bounded; it raises nothing."""

    async def main() -> None:
        near, far = channel()
        assert isinstance(near, Half)
        muxer = Muxer(far, initiator=False, limits=Limits(streams=3))
        with trio.move_on_after(inf) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(muxer.run)
                with suppress(StreamBroken):
                    for message in messages:
                        await near.send(message)
                await trio.testing.wait_all_tasks_blocked()
                assert muxer.open_streams <= 3
                for stream in muxer._streams.values():
                    assert len(stream._inbox) <= WINDOW
                scope.cancel()

    trio.run(main)
