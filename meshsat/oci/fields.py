"""JSON from outside, checked field by field. Every function ends in a value or in `InvalidInputError`.

Bounds: nesting, number of containers, length of names. What a JSON parser may read in two ways (a key given
twice, NaN, text that is not UTF-8) is refused, because another parser behind us might read it the other way.
`null` counts as absent: Go writes it for an empty list.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from meshsat.errors import InvalidInputError

MAX_DEPTH = 32
MAX_CONTAINERS = 100_000
MAX_BLOB_SIZE = 2**40
"""Bytes. A size above one TiB in a descriptor is an attack or an accident."""

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


def parse_object_untrusted(raw: bytes, what: str, containers: int = MAX_CONTAINERS) -> dict[str, Any]:
    """The JSON object in `raw`; the caller has bounded its length. `what` begins the error's text.

    `containers`: the most objects and lists in it, brackets in texts counted along.
    """
    # Counting first bounds the memory: `[[],[],...` would otherwise take some thirty times its own length.
    if raw.count(b"{") + raw.count(b"[") > containers:
        raise InvalidInputError(f"{what}: more than {containers} JSON objects and lists")
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_no_constant)
        _check_tree(value)
    except InvalidInputError as fault:
        raise InvalidInputError(f"{what}: {fault}") from None
    except RecursionError:
        raise InvalidInputError(f"{what}: nested too deep") from None
    except ValueError as fault:  # JSON syntax, UTF-8, lone surrogates, integers of thousands of digits
        raise InvalidInputError(f"{what}: not JSON ({str(fault)[:120]})") from None
    if not isinstance(value, dict):
        raise InvalidInputError(f"{what}: not a JSON object")
    return value


def take_text(fields: Mapping[str, Any], key: str, limit: int = 4096) -> str | None:
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > limit:
        raise InvalidInputError(f"{key}: not a text of at most {limit} characters")
    return value


def take_media_type(fields: Mapping[str, Any], key: str) -> str | None:
    """RFC 6838, 4.2. An empty text counts as absent: older writers leave it so."""
    value = take_text(fields, key, 255)
    if not value:
        return None
    if not _MEDIA_TYPE.fullmatch(value):
        raise InvalidInputError(f"{key}: {value!r} is not a media type")
    return value


def take_integer(fields: Mapping[str, Any], key: str, limit: int) -> int:
    value = fields.get(key)
    # bool is an int in Python, 1.0 is a float in JSON: neither is a size.
    if type(value) is not int or not 0 <= value <= limit:
        raise InvalidInputError(f"{key}: not a whole number from 0 to {limit}")
    return value


def take_texts(fields: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = fields.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidInputError(f"{key}: not a list of texts")
    return tuple(value)


def take_annotations(fields: Mapping[str, Any]) -> Mapping[str, str]:
    value = fields.get("annotations")
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise InvalidInputError("annotations: not a map of texts")
    return value


def take_objects(fields: Mapping[str, Any], key: str) -> list[Any]:
    """The list under `key`; what its items are is checked where they are parsed."""
    value = fields.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidInputError(f"{key}: not a list")
    return value


def unknown_fields(fields: Mapping[str, Any], known: frozenset[str]) -> Mapping[str, Any]:
    return {key: value for key, value in fields.items() if key not in known}


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidInputError("a key is given twice")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise InvalidInputError(f"{name} is not JSON")


def _check_tree(root: Any) -> None:
    """Without recursion: nothing lies deeper than `MAX_DEPTH`, and every text can be encoded again."""
    level = [root]
    for _ in range(MAX_DEPTH + 1):
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                deeper.extend(value.keys())
                deeper.extend(value.values())
            elif isinstance(value, list):
                deeper.extend(value)
            elif isinstance(value, str) and not value.isascii():
                value.encode()  # a lone surrogate raises UnicodeEncodeError, a ValueError
        if not deeper:
            return
        level = deeper
    raise InvalidInputError("nested too deep")
