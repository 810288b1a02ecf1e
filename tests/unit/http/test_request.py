import pytest

from meshsat.http.request import CHUNK_OVERHEAD, BadRequestError, ChunkedBody, Request, parse_header_untrusted


def parse(*fields: str, line: str = "GET / HTTP/1.1", host: str = "Host: x") -> Request:
    lines = [line, *([host] if host else []), *fields, "", ""]
    return parse_header_untrusted("\r\n".join(lines).encode("latin-1"))


def chunked() -> ChunkedBody:
    body = parse("Transfer-Encoding: chunked", line="PUT / HTTP/1.1").body
    assert body is not None
    return body


def feed(body: ChunkedBody, parts: list[bytes]) -> bytes:
    return b"".join([body.feed_untrusted(part) for part in parts])


def test_a_request_is_what_was_sent() -> None:
    request = parse("ACCEPT: a", "Accept:  b \t", "X-Empty:", line="HEAD /a%2Fb?c=%20 HTTP/1.1")
    assert (request.method, request.target, request.version) == ("HEAD", b"/a%2Fb?c=%20", "1.1")
    assert request.headers == [(b"host", b"x"), (b"accept", b"a"), (b"accept", b"b"), (b"x-empty", b"")]
    assert (request.length, request.body, request.close, request.expects) == (0, None, False, False)


@pytest.mark.parametrize(
    ("line", "fields", "close"),
    [
        ("GET / HTTP/1.1", (), False),
        ("GET / HTTP/1.1", ("Connection: keep-alive",), False),
        ("GET / HTTP/1.1", ("Connection: closed",), False),
        ("GET / HTTP/1.1", ("Connection: keep-alive, CLOSE",), True),
        ("GET / HTTP/1.1", ("Connection: x", "Connection: close"), True),
        ("GET / HTTP/1.0", (), True),
        ("GET / HTTP/1.0", ("Connection: keep-alive",), True),
    ],
)
def test_who_wants_the_connection_to_end(line: str, fields: tuple[str, ...], *, close: bool) -> None:
    assert parse(*fields, line=line).close is close


@pytest.mark.parametrize(
    ("fields", "expects"),
    [
        (("Expect: 100-continue", "Content-Length: 1"), True),
        (("Expect: 100-Continue", "Transfer-Encoding: chunked"), True),
        (("Expect: 100-continue", "Content-Length: 0"), False),
        (("Expect: 100-continue",), False),
        (("Content-Length: 1",), False),
    ],
)
def test_who_waits_for_100_continue(fields: tuple[str, ...], *, expects: bool) -> None:
    assert parse(*fields, line="PUT / HTTP/1.1").expects is expects


@pytest.mark.parametrize("target", ["*", "/", "http://other:1/p?q", "/?", "/a//b/../c"])
def test_a_target_may_have_these_forms(target: str) -> None:
    assert parse(line=f"OPTIONS {target} HTTP/1.1").target == target.encode()


def test_http_1_0_needs_no_host() -> None:
    assert parse(line="GET / HTTP/1.0", host="").version == "1.0"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\n\n\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\n", 505),
        (b"GET / RTSP/1.0\r\nHost: x\r\n\r\n", 400),
        (b"SOURCE / ICE/1.0\r\nHost: x\r\n\r\n", 400),
        (b"MADEUP / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"GET a:1 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /\x7f HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_for_us_is_refused(raw: bytes, status: int) -> None:
    with pytest.raises(BadRequestError) as refused:
        parse_header_untrusted(raw)
    assert refused.value.status == status
    assert refused.value.text


@pytest.mark.parametrize(
    "fields",
    [
        ("Content-Length: 1", "Content-Length: 2"),
        ("Content-Length: 1", "Content-Length: 1"),
        ("Content-Length: 1, 1",),
        ("Content-Length: +1",),
        ("Content-Length: -1",),
        ("Content-Length: 1 1",),
        ("Content-Length: 0x1",),
        ("Content-Length: 1_0",),
        ("Content-Length:",),
        ("Content-Length: 18446744073709551616",),
        ("Content-Length: 1", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 1"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding: \x0bchunked",),
        ("Transfer-Encoding: identity",),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding\x00: chunked",),
        ("A: b\r\n c",),
        ("A: b\r\n\tContent-Length: 3",),
        (" A: b",),
        ("A: b\nContent-Length: 3",),
        ("A: b\rContent-Length: 3",),
        ("A: b\x00c",),
        ("A: b\x01c",),
        ("A",),
        (": b",),
        ("A b: c",),
    ],
)
def test_what_could_be_read_otherwise_is_refused(fields: tuple[str, ...]) -> None:
    """Of a request that two servers see end in different places, the second half becomes a request of its own."""
    with pytest.raises(BadRequestError) as refused:
        parse(*fields, line="POST / HTTP/1.1")
    assert refused.value.status in {400, 501}


def test_http_1_0_knows_no_chunks() -> None:
    with pytest.raises(BadRequestError):
        parse("Transfer-Encoding: chunked", line="POST / HTTP/1.0")


def test_a_request_for_an_upgrade_is_a_plain_request() -> None:
    request = parse("Connection: Upgrade, HTTP2-Settings", "UPGRADE: h2c", "HTTP2-Settings: AAMA", "A: b")
    assert request.headers == [
        (b"host", b"x"),
        (b"connection", b"Upgrade, HTTP2-Settings"),
        (b"http2-settings", b"AAMA"),
        (b"a", b"b"),
    ]


def test_a_request_for_an_upgrade_keeps_its_body() -> None:
    request = parse("Connection: upgrade", "Upgrade: h2c", "Content-Length: 3", line="POST / HTTP/1.1")
    assert request.length == 3
    request = parse(
        "Upgrade: h2c", "Connection: upgrade", "Transfer-Encoding: chunked", line="POST / HTTP/1.1"
    )
    assert request.body is not None
    assert request.body.feed_untrusted(b"3\r\nabc\r\n0\r\n\r\n") == b"abc"


def test_chunks_are_read_however_they_come() -> None:
    raw = b'3\r\nabc\r\nA;x=y;z="q"\r\n0123456789\r\n000\r\nTrailer: t\r\n\r\n'
    for size in (1, 2, 7, len(raw)):
        body, got = chunked(), b""
        for start in range(0, len(raw), size):
            assert not body.done
            got += body.feed_untrusted(raw[start : start + size])
        assert got == b"abc0123456789"
        assert body.done
        assert not body.overrun


def test_what_follows_the_last_chunk_is_seen() -> None:
    for after in (b"GET / HTTP/1.1\r\n\r\n", b"\x00", b"G"):
        body = chunked()
        assert body.feed_untrusted(b"3\r\nabc\r\n0\r\n\r\n" + after) == b"abc"
        assert body.done
        assert body.overrun


@pytest.mark.parametrize(
    "raw",
    [
        b"zz\r\nabc",
        b"-1\r\nabc",
        b"+3\r\nabc",
        b"0x3\r\nabc",
        b"3 \r\nabc",
        b"3\nabc\n0\n\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3;a\nabc\r\n0\r\n\r\n",
        b"11111111111111111\r\nabc",
        b"\r\n",
        b"3\r\nabc0\r\n\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\nA: b\r\n c\r\n\r\n",
    ],
)
def test_bad_chunks_are_refused(raw: bytes) -> None:
    for size in (1, len(raw)):
        with pytest.raises(BadRequestError):
            feed(chunked(), [raw[start : start + size] for start in range(0, len(raw), size)])


@pytest.mark.parametrize("start", [b"3;", b"0\r\nA: ", b"3\r\nabc\r\n0\r\nA: "])
def test_chunks_without_content_do_not_go_on_for_ever(start: bytes) -> None:
    body = chunked()
    body.feed_untrusted(start)
    with pytest.raises(BadRequestError):
        feed(body, [b"a" * 1024] * (1 + CHUNK_OVERHEAD // 1024))
