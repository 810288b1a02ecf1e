"""What HTTP clients send, as hypothesis makes it: a value or the documented error, and nothing else."""

from contextlib import suppress
from typing import Any

import structlog
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsat.config import HttpSection
from meshsat.errors import InvalidInputError
from meshsat.http.asgi import Receive, Scope, Send, respond
from meshsat.http.connection import Connection
from meshsat.http.ranges import (
    RangeNotSatisfiableError,
    none_match_untrusted,
    parse_range_untrusted,
)
from meshsat.oci.reference import parse_repository_untrusted
from meshsat.registry.errors import RefusedError
from meshsat.registry.routes import BlobRoute, ManifestRoute, TagsRoute, parse_route_untrusted
from meshsat.web.api import parse_arguments_untrusted

SEGMENT = st.one_of(
    st.sampled_from(
        [b"blobs", b"manifests", b"tags", b"list", b"uploads", b"v2", b"..", b"%2f", b"%00", b"", b"a"]
    ),
    st.sampled_from([b"sha256:" + b"a" * 64, b"sha512:" + b"b" * 128, b"latest", b"reg.example.test:5000"]),
    st.binary(max_size=12),
)
PATH = st.one_of(
    st.binary(max_size=300),
    st.lists(SEGMENT, max_size=8).map(lambda parts: b"/v2/" + b"/".join(parts)),
)
QUERY = st.one_of(
    st.binary(max_size=200),
    st.tuples(st.sampled_from([b"ns=", b"n=", b"last="]), st.binary(max_size=40)).map(b"".join),
)
HEADER = st.one_of(
    st.binary(max_size=60), st.from_regex(rb"\Abytes=[0-9]{0,20}-[0-9]{0,20}\Z"), st.just(b'"sha256:aa"')
)


@given(PATH, QUERY)
def test_a_route_is_valid_or_refused(path: bytes, query: bytes) -> None:
    route = None
    with suppress(RefusedError):
        route = parse_route_untrusted(path, query)
    if isinstance(route, ManifestRoute | BlobRoute | TagsRoute):
        name = route.target.name
        assert parse_repository_untrusted(name.repository) == name.repository
        assert name.registry is None or name.registry.isascii()
        assert route.target.path.isascii()
        assert "/.." not in f"/{name.repository}"


@given(st.lists(HEADER, max_size=2), st.lists(HEADER, max_size=2), st.integers(0, 2**40))
def test_a_range_lies_in_the_blob(lines: list[bytes], if_range: list[bytes], size: int) -> None:
    with suppress(RangeNotSatisfiableError):
        span = parse_range_untrusted(lines, if_range, b'"sha256:aa"', size)
        assert span is None or 0 <= span.start < span.stop <= size


@given(st.lists(HEADER, max_size=3))
def test_a_condition_holds_or_not(lines: list[bytes]) -> None:
    assert none_match_untrusted(lines, b'"sha256:aa"') in {True, False}


ARGUMENTS: dict[str, Any] = {"reference": str, "pin": bool, "uses": int, "valid_seconds": (int, float)}


@given(
    st.one_of(
        st.binary(max_size=200),
        st.from_regex(
            rb'\A\{"(reference|pin|uses|valid_seconds|other)": ([0-9.eE-]{1,9}|true|null|"x"|\[\])\}\Z'
        ),
    )
)
def test_arguments_are_of_their_types_or_refused(raw: bytes) -> None:
    with suppress(InvalidInputError):
        arguments = parse_arguments_untrusted(raw, ARGUMENTS)
        assert all(isinstance(value, ARGUMENTS[key]) for key, value in arguments.items())


WIRE = st.one_of(
    st.binary(max_size=400),
    st.lists(
        st.sampled_from(
            [
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n",
                b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"HEAD / HTTP/1.0\r\n",
                b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
                b"GET * HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
                b"Expect: 100-continue\r\n",
                b"\r\n",
                b"abc",
                b"3\r\nabc\r\n",
                b"0\r\n\r\n",
                b"\x00\xff",
            ]
        ),
        max_size=8,
    ).map(b"".join),
)


@settings(deadline=None)
@given(WIRE, st.booleans())
def test_whatever_a_client_sends_its_connection_ends_without_a_fault(sent: bytes, reads_body: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while reads_body and (await receive()).get("more_body", False):
            pass
        await respond(send, 200, [(b"content-length", b"2")], b"ok")

    async def both_ends() -> None:
        ours, theirs = trio.socket.socketpair()
        limits = HttpSection(header_timeout=1, idle_timeout=1, grace=0.01)
        connection = Connection(app, trio.SocketStream(ours), limits, lambda: b"now")
        await theirs.send(sent)
        theirs.shutdown(trio.socket.SHUT_WR)
        with trio.fail_after(5):
            await connection.run()
        theirs.close()

    with structlog.testing.capture_logs() as logs:
        trio.run(both_ends)
    assert logs == []
