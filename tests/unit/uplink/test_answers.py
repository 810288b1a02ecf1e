import httpx
import pytest

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from meshsat.uplink.answers import (
    ContentRange,
    error_text_untrusted,
    is_unmodified_untrusted,
    next_page_untrusted,
    parse_content_range_untrusted,
    parse_length_untrusted,
    parse_retry_after_untrusted,
    redirect_target_untrusted,
)

ASKED = httpx.URL("https://registry.test:5000/v2/a/blobs/sha256:x")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("bytes 0-99/1000", ContentRange(0, 100, 1000)),
        ("bytes 500-999/*", ContentRange(500, 1000, None)),
        ("Bytes */1000", ContentRange(0, 0, 1000)),
    ],
)
def test_content_range(text: str, told: ContentRange) -> None:
    assert parse_content_range_untrusted(text) == told


@pytest.mark.parametrize(
    "text",
    ["", "bytes 0-99", "bytes 99-0/1000", "bytes 0-1000/1000", "bytes */*", "items 0-1/2", "bytes -1-5/9"],
)
def test_content_range_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_content_range_untrusted(text)


def test_length() -> None:
    assert parse_length_untrusted("17") == 17
    for text in ("", "-1", "1e3", "\u0661", "9" * 40):
        with pytest.raises(InvalidInputError):
            parse_length_untrusted(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("9999999999", 86400.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 37.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),
    ],
)
def test_retry_after(text: str, seconds: float) -> None:
    assert parse_retry_after_untrusted(text, now=784111740.0) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5", "1.5", "Sun, 99 Nov 1994 08:49:37 GMT"])
def test_retry_after_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_retry_after_untrusted(text, now=0.0)


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/other", "https://registry.test:5000/other"),
        ("//cdn.test/x?sig=1", "https://cdn.test/x?sig=1"),
        ("https://cdn.test/x#part", "https://cdn.test/x"),
    ],
)
def test_redirect(location: str, target: str) -> None:
    assert str(redirect_target_untrusted(ASKED, location)) == target


@pytest.mark.parametrize(
    "location",
    ["", "ftp://x/y", "https://name:secret@cdn.test/x", "file:///etc/passwd", "x" * 20_000],
)
def test_redirect_refused(location: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        redirect_target_untrusted(ASKED, location)
    assert "secret" not in str(refused.value)


def test_error_text() -> None:
    body = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such\\u001b[31m manifest"}]}'
    assert error_text_untrusted(body) == "MANIFEST_UNKNOWN: no such?[31m manifest"
    for nothing in (
        b"",
        b"<html>",
        b"[]",
        b'{"errors":[]}',
        b'{"errors":[1]}',
        b'{"errors":{"0":1}}',
        b"\xff",
    ):
        assert error_text_untrusted(nothing) == ""
    assert len(error_text_untrusted(b'{"errors":[{"message":"' + b"x" * 5000 + b'"}]}')) == 200


KNOWN = Digest.of(b"known")


@pytest.mark.parametrize(
    ("etag", "told", "same"),
    [
        (None, None, True),
        (f'"{KNOWN}"', None, True),
        (f' W/"{KNOWN}" ', str(KNOWN), True),
        (str(KNOWN), str(KNOWN), True),
        (f'"{KNOWN}"', str(Digest.of(b"x")), False),
        (f'"{Digest.of(b"x")}"', str(KNOWN), False),
        (f'"{KNOWN}-gzip"', None, False),
        ('"', "md5:1", False),
    ],
)
def test_not_modified(etag: str | None, told: str | None, same: bool) -> None:
    assert is_unmodified_untrusted(etag, told, KNOWN) is same


@pytest.mark.parametrize(
    ("links", "query"),
    [
        ([], None),
        (['<?last=x&n=2>; rel="next"'], "last=x&n=2"),
        (["</v2/a/blobs/sha256:x?p=2>;rel=next"], "p=2"),
        (['<https://registry.test:5000/v2/a/blobs/sha256:x?p=2>; title="t"; rel="next"'], "p=2"),
        (['<?p=1>; rel="prev"'], None),
        (["", "nonsense"], None),
    ],
)
def test_next_page(links: list[str], query: str | None) -> None:
    assert next_page_untrusted(ASKED, links) == query


@pytest.mark.parametrize("there", ["https://other.test/v2/a?p=2", "/v2/b?p=2", "http://u:p@x/", "//x/v2?p"])
def test_a_next_page_elsewhere_is_refused(there: str) -> None:
    with pytest.raises(InvalidInputError):
        next_page_untrusted(ASKED, [f'<{there}>; rel="next"'])
