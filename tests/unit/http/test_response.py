import pytest

from meshsat.http.asgi import Headers
from meshsat.http.response import Response, ResponseFault

LENGTH_5: Headers = [(b"content-length", b"5")]


def begun(
    headers: Headers | None = None, *, method: str = "GET", version: str = "1.1", status: int = 200
) -> Response:
    response = Response(method, version, close=False)
    response.begin(status, headers or [])
    return response


def sent(response: Response, *parts: bytes) -> bytes:
    """All of it, `parts` being the body."""
    out = b""
    for number, part in enumerate(parts, 1):
        out += b"".join(response.part(part, b"now", more=number < len(parts)))
    return out


def test_the_header_says_what_the_application_said_and_the_date() -> None:
    assert sent(begun([*LENGTH_5, (b"x", b"y")]), b"hello") == (
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx: y\r\ndate: now\r\n\r\nhello"
    )
    assert b"date: now" not in sent(begun([*LENGTH_5, (b"Date", b"then")]), b"hello")


def test_a_response_with_a_length_is_complete_when_that_is_there() -> None:
    response = begun(LENGTH_5)
    assert sent(response, b"he", b"llo").endswith(b"\r\n\r\nhello")
    assert response.complete
    assert not response.ends_with_connection


def test_a_body_that_is_given_at_once_needs_no_length() -> None:
    assert b"content-length: 5\r\n" in sent(begun(), b"hello")


def test_a_body_of_unknown_length_is_chunked() -> None:
    response = begun()
    out = sent(response, b"hello", b"", b"0123456789abcdef", b"")
    header, _, body = out.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in header
    assert body == b"5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"
    assert not response.ends_with_connection


def test_to_http_1_0_it_ends_with_the_connection() -> None:
    response = begun(version="1.0")
    header, _, body = sent(response, b"hello", b"!").partition(b"\r\n\r\n")
    assert body == b"hello!"
    assert b"connection: close" in header
    assert b"chunked" not in header
    assert response.close
    assert response.ends_with_connection


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_some_have_no_body_whatever_the_application_gives(method: str, status: int) -> None:
    out = sent(begun(LENGTH_5, method=method, status=status), b"hello")
    assert out.endswith(b"content-length: 5\r\ndate: now\r\n\r\n")
    assert sent(begun(method=method, status=status), b"hello", b"!").endswith(b"\r\n\r\n")


def test_what_is_sent_otherwise_is_framed_too() -> None:
    response = begun(LENGTH_5)
    before, after = response.frame(5, b"now", more=False)
    assert before.endswith(b"\r\n\r\n")
    assert after == b""
    before, after = begun().frame(5, b"now", more=True)
    assert before.endswith(b"\r\n\r\n5\r\n")
    assert after == b"\r\n"


def test_an_unknown_status_has_no_words() -> None:
    assert sent(begun(status=299), b"").startswith(b"HTTP/1.1 299 \r\n")


@pytest.mark.parametrize("asked", [True, False])
def test_the_last_response_of_a_connection_says_so(*, asked: bool) -> None:
    response = Response("GET", "1.1", close=asked)
    response.begin(200, [] if asked else [(b"Connection", b"close")])
    out = sent(response, b"")
    assert out.count(b"connection: close\r\n") == 1
    assert response.close


@pytest.mark.parametrize(
    "header", [(b"a", b"b\r\nc: d"), (b"a", b"b\nc"), (b"a\r\nb", b"c"), (b"a", b"b\rc"), (b"a", b"\0")]
)
def test_an_application_cannot_write_lines_of_its_own(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ResponseFault):
        sent(begun([header]), b"")


@pytest.mark.parametrize("parts", [(b"hell",), (b"hello!",), (b"hello", b"!"), (b"he", b"l")])
def test_a_body_of_another_length_than_told_is_a_fault(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(ResponseFault):
        sent(begun(LENGTH_5), *parts)


def test_one_request_has_one_response() -> None:
    response = begun(LENGTH_5)
    with pytest.raises(ResponseFault):
        response.begin(200, [])
    sent(response, b"hello")
    for again in (lambda: response.begin(200, []), lambda: sent(response, b"")):
        with pytest.raises(ResponseFault):
            again()
    with pytest.raises(ResponseFault):
        sent(Response("GET", "1.1", close=False), b"no header")
