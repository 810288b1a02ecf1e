"""What a verb is given: the body of its request, bounded and checked field by field."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from meshsat.errors import InvalidInputError
from meshsat.oci.fields import parse_object_untrusted

BODY_LIMIT = 64 * 1024
"""Bytes of a request's body."""


async def read_body_untrusted(request: Request, limit: int = BODY_LIMIT) -> bytes:
    """At most `limit` bytes. Raises `InvalidInputError` as soon as it is too long."""
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > limit:
            raise InvalidInputError(f"the body has more than {limit} bytes")
    return bytes(raw)


def parse_arguments_untrusted(raw: bytes, known: Mapping[str, Any]) -> dict[str, Any]:
    """A verb's arguments: a JSON object, or nothing, with no other fields than `known`, each of its type.

    Raises `InvalidInputError`.
    """
    body = parse_object_untrusted(raw or b"{}", "the body")
    for key, value in body.items():
        if key not in known:
            raise InvalidInputError(f"{key[:64]!r} is not known here; known: {', '.join(known)}")
        # bool is an int in Python, not in JSON.
        if not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] is not bool):
            raise InvalidInputError(f"{key}: is of the wrong type")
    return body


def parse_nodes_untrusted(text: str | None) -> int | None:
    """How many satellites a shadow compares with. Raises `InvalidInputError`."""
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 6 or int(text) < 1:
        raise InvalidInputError("nodes: must be a whole number from 1 to 999999")
    return int(text)
