import pytest

from meshsat.errors import InvalidInputError
from meshsat.mesh.greeting import (
    CONTENT,
    GREETING_LIMIT,
    LENGTH,
    Greeting,
    encode_greeting,
    parse_greeting_untrusted,
    read_content_untrusted,
    read_greeting_untrusted,
)
from meshsat.mesh.transport import StreamBroken

CHAIN = (b"leaf" * 100, b"issuer" * 90)
WHOLE = encode_greeting(CHAIN, "/meshsat/gossip/1")


class Source:
    def __init__(self, data: bytes) -> None:
        self.rest = data

    async def receive_into(self, buffer: memoryview) -> int:
        taken, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


async def test_what_is_written_is_read() -> None:
    source = Source(WHOLE + b"payload")
    assert await read_greeting_untrusted(source) == Greeting(CHAIN, "/meshsat/gossip/1")
    assert source.rest == b"payload"


def test_an_answer_may_leave_the_protocol_empty() -> None:
    assert parse_greeting_untrusted(encode_greeting(CHAIN, "")[LENGTH.size :]) == Greeting(CHAIN, "")


@pytest.mark.parametrize("length", range(1, len(WHOLE), 97))
async def test_a_greeting_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises((InvalidInputError, StreamBroken)):
        await read_greeting_untrusted(Source(WHOLE[:length]))


@pytest.mark.parametrize("length", [0, GREETING_LIMIT + 1, 65535])
async def test_a_length_out_of_bounds_is_refused_before_a_byte_is_awaited(length: int) -> None:
    source = Source(LENGTH.pack(length) + bytes(70000))
    with pytest.raises(InvalidInputError):
        await read_greeting_untrusted(source)
    assert len(source.rest) == 70000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(GREETING_LIMIT + 1),
        b"\x00/no/certificates",
        b"\x04" + b"\x00\x01x" * 4,
        b"\x01\x00",
        b"\x01\x00\x00",
        b"\x01\xff\xffx",
        b"\x01\x00\x05four",
        b"\x01\x00\x01x\xff\xfe",
        b"\x01\x00\x01x" + b"/" * 65,
        b"\x01\x00\x01x/two words",
    ],
)
def test_what_is_no_greeting_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse_greeting_untrusted(body)


async def test_the_last_word_is_one_word() -> None:
    await read_content_untrusted(Source(CONTENT))
    with pytest.raises(InvalidInputError):
        await read_content_untrusted(Source(b"\x02"))
    with pytest.raises(StreamBroken):
        await read_content_untrusted(Source(b""))
