"""Answers: what the headers and error bodies of an upstream mean. No input or output.

All of it comes from outside: each function is total and raises `InvalidInputError` only.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest

LOCATION_LIMIT = 16 * 1024
"""Characters: signed addresses of object storage are long."""
ERROR_TEXT_LIMIT = 200
"""Characters of an upstream's own words that are passed on."""
_MOST_WAIT = 86400.0

_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,19})-([0-9]{1,19})|\*)/([0-9]{1,19}|\*)", re.IGNORECASE)
_NEXT = re.compile(r'<([^<>"\s]+)>\s*;(?:[^,]*;)?\s*rel="?next"?\s*(?:;[^,]*)?')
_HOST = re.compile(r"[a-z0-9_-][a-z0-9._-]{0,252}|[0-9a-f:.]{2,45}")
"""A name or an address; names with `_` are common inside container networks."""


@dataclass(frozen=True, slots=True)
class ContentRange:
    """RFC 9110, 14.4. Byte `start` is the first, `stop` is one past the last; `total` None: not told."""

    start: int
    stop: int
    total: int | None


def parse_content_range_untrusted(text: str) -> ContentRange:
    """For an unsatisfied range (`bytes */1000`) start and stop are 0."""
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None or (match[1] is None and match[3] == "*"):
        raise InvalidInputError(f"Content-Range {text[:80]!r} cannot be read")
    total = None if match[3] == "*" else int(match[3])
    if match[1] is None:
        return ContentRange(0, 0, total)
    start, stop = int(match[1]), int(match[2]) + 1
    if stop <= start or (total is not None and stop > total):
        raise InvalidInputError(f"Content-Range {text[:80]!r} contradicts itself")
    return ContentRange(start, stop, total)


def parse_length_untrusted(text: str) -> int:
    """A Content-Length."""
    if not re.fullmatch(r"[0-9]{1,19}", text.strip()):
        raise InvalidInputError(f"Content-Length {text[:80]!r} is not a number of bytes")
    return int(text)


def parse_retry_after_untrusted(text: str, now: float) -> float:
    """Seconds to wait, at most a day, from a number or a date (RFC 9110, 10.2.3). `now`: Unix seconds."""
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,19}", text):
        return min(float(text), _MOST_WAIT)
    try:
        at = parsedate_to_datetime(text[:80]).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        raise InvalidInputError(f"Retry-After {text[:80]!r} is neither seconds nor a date") from None
    return min(max(0.0, at - now), _MOST_WAIT) if math.isfinite(at) else 0.0


def is_unmodified_untrusted(etag: str | None, told: str | None, known: Digest) -> bool:
    """Whether a 304 is about `known`, which was asked for: its entity tag (quoted or not, strong or weak) and
    its Docker-Content-Digest say nothing else. A cache on the way may confuse what it keeps. Total."""
    tag = (etag or "").strip().removeprefix("W/").strip('"')
    return all(word in ("", str(known)) for word in (tag, (told or "").strip()))


def next_page_untrusted(asked: httpx.URL, links: Sequence[str]) -> str | None:
    """The query of the page that follows a list's (`Link: <...>; rel="next"`, RFC 8288), at the very address
    that was asked; None where there is none. Raises `InvalidInputError` for one that leads elsewhere."""
    for line in links:
        match = _NEXT.fullmatch(line.strip()[:LOCATION_LIMIT])
        if match is not None:
            there = parse_address_untrusted(match[1], asked)
            if (there.scheme, there.netloc, there.raw_path.partition(b"?")[0]) != (
                asked.scheme,
                asked.netloc,
                asked.raw_path.partition(b"?")[0],
            ):
                raise InvalidInputError("the next page of the list is said to be elsewhere")
            return there.query.decode("ascii")
    return None


def redirect_target_untrusted(asked: httpx.URL, location: str) -> httpx.URL:
    """Where a `Location` leads."""
    if not location or len(location) > LOCATION_LIMIT:
        raise InvalidInputError("redirect without a Location, or with one that is too long")
    return parse_address_untrusted(location, asked)


def parse_address_untrusted(text: str, relative_to: httpx.URL | None = None) -> httpx.URL:
    """An http(s) address with a host that can be connected to and no login in it; its fragment is dropped."""
    try:
        url = httpx.URL(text) if relative_to is None else relative_to.join(text)
    except (httpx.InvalidURL, ValueError):
        raise InvalidInputError("not an address") from None
    if url.scheme not in ("http", "https") or url.userinfo:
        raise InvalidInputError("an address of another scheme than http(s), or with a login in it")
    if not _HOST.fullmatch(url.host) or not 1 <= (url.port or 1) <= 65535:
        raise InvalidInputError("an address without a host, or with one that cannot be")
    return url.copy_with(fragment=None)


def error_text_untrusted(body: bytes) -> str:
    """`CODE: message` of the first error in a registry's error body (distribution-spec, "Error Codes"),
    printable and short; empty where there is none."""
    try:
        errors = json.loads(body)["errors"]
        code, message = errors[0].get("code"), errors[0].get("message")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return ""
    words = [word for word in (code, message) if isinstance(word, str) and word]
    text = "".join(c if c.isprintable() else "?" for c in ": ".join(words)[:ERROR_TEXT_LIMIT])
    return text.encode(errors="replace").decode()
