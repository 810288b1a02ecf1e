"""What HTTP clients send, as hypothesis makes it: a value or the documented error, and nothing else."""

import socket
from contextlib import suppress
from typing import Any

import structlog
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsat.config import HttpSection
from meshsat.errors import InvalidInputError
from meshsat.http.asgi import Receive, Scope, Send, respond
from meshsat.http.connection import Connection, Service
from meshsat.http.ranges import (
    RangeNotSatisfiableError,
    none_match_untrusted,
    parse_range_untrusted,
)
from meshsat.http.request import BadRequestError, parse_header_untrusted
from meshsat.http.seats import Seats
from meshsat.http.wire import PlainWire
from meshsat.oci.reference import parse_repository_untrusted
from meshsat.registry.errors import RefusedError
from meshsat.registry.routes import BlobRoute, ManifestRoute, TagsRoute, parse_route_untrusted
from meshsat.web.arguments import parse_arguments_untrusted

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


LINE = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"POST http://x/a?b HTTP/1.1\r\n",
        b"HEAD * HTTP/1.0\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"GET /\r\n",
        b"SOURCE / ICE/1.0\r\n",
    ]
)
FIELD = st.one_of(
    st.sampled_from(
        [
            b"Host: x\r\n",
            b"Content-Length: 3\r\n",
            b"Content-Length: 4\r\n",
            b"Content-Length: +3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: gzip, chunked\r\n",
            b"Connection: close\r\n",
            b"Connection: upgrade\r\n",
            b"Upgrade: h2c\r\n",
            b"Expect: 100-continue\r\n",
            b" folded\r\n",
            b"A: b\nc: d\r\n",
            b"A: \x00\r\n",
        ]
    ),
    st.tuples(st.binary(max_size=8), st.binary(max_size=8)).map(lambda pair: b"%b: %b\r\n" % pair),
)


@given(
    st.one_of(
        st.binary(max_size=200).map(lambda raw: raw + b"\r\n\r\n"),
        st.tuples(LINE, st.lists(FIELD, max_size=6)).map(
            lambda parts: parts[0] + b"".join(parts[1]) + b"\r\n"
        ),
    )
)
def test_a_header_has_one_meaning_or_is_refused(raw: bytes) -> None:
    with suppress(BadRequestError):
        request = parse_header_untrusted(raw)
        names = [name for name, _ in request.headers]
        assert names.count(b"host") == 1 or (request.version == "1.0" and b"host" not in names)
        assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
        assert (request.body is not None) == (b"transfer-encoding" in names)
        assert request.length == 0 or b"content-length" in names
        assert all(name == name.lower() and not set(b" \r\n\0:") & set(name) for name in names)
        assert all(not set(b"\r\n\0") & set(value) for _, value in request.headers)
        assert not set(b" \r\n\0") & set(request.target)


CHUNKS = st.lists(
    st.one_of(
        st.sampled_from([b"3\r\n", b"abc", b"\r\n", b"0\r\n", b"A;x=y\r\n", b"T: v\r\n", b"ffffffffff\r\n"]),
        st.binary(max_size=10),
    ),
    max_size=12,
).map(b"".join)


@given(CHUNKS, st.integers(1, 20))
def test_chunks_give_the_same_however_they_are_cut(raw: bytes, size: int) -> None:
    def content(parts: list[bytes]) -> bytes | None:
        body = parse_header_untrusted(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").body
        assert body is not None
        got = b""
        try:
            for part in parts:
                if body.done:
                    break
                got += body.feed_untrusted(part)
        except BadRequestError:
            return None
        return got

    assert content([raw]) == content([raw[at : at + size] for at in range(0, len(raw), size)])


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
        ours, far = socket.socketpair()
        ours.setblocking(False)
        theirs = trio.socket.from_stdlib_socket(far)
        limits = HttpSection(header_timeout=1, idle_timeout=1, grace=0.01)
        service = Service(app, limits, Seats(1), lambda: b"now")
        connection = Connection(service, PlainWire(ours), None, None)
        await theirs.send(sent)
        theirs.shutdown(trio.socket.SHUT_WR)
        with trio.fail_after(5):
            await connection.run()
        theirs.close()

    with structlog.testing.capture_logs() as logs:
        trio.run(both_ends)
    assert logs == []
