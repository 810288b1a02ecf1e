"""Puts a text first into a list of a JSON object, and leaves every other byte as it was.

The change is made on the text and then checked: parsed, it must be what was parsed before with just this
change.
"""

import json
import re

from meshsat.errors import InvalidInputError
from meshsat.runtime.formats import parse_json_untrusted, text_untrusted, texts
from meshsat.runtime.lines import newline_of

SPACE = re.compile(r"[ \t\r\n]*")


def put_first(path: str, data: bytes, key: str, value: str) -> bytes:
    """The file with `value` first in the list under `key`, which is made where it is missing.

    Raises `InvalidInputError`.
    """
    text = text_untrusted(path, data)
    found = parse_json_untrusted(path, data)
    expected = {**found, key: [value, *texts(path, key, found.get(key))]}
    if not text.strip():
        changed = _fresh(key, value)
    else:
        members = _members(text)
        changed = (
            _into_list(text, members[key], value) if found.get(key) is not None and key in members
            else _new_member(text, members, key, value)
        )  # fmt: skip
    if parse_json_untrusted(path, changed.encode()) != expected:
        raise InvalidInputError(f"{path} cannot be changed safely; put {value!r} first in {key!r} yourself")
    return changed.encode()


def _fresh(key: str, value: str) -> str:
    return f"{{\n  {json.dumps(key)}: [{json.dumps(value)}]\n}}\n"


def _members(text: str) -> dict[str, tuple[int, int, int]]:
    """Key -> where its text, its value and the value's end are, for the members of the object in `text`."""
    decoder = json.JSONDecoder()
    members: dict[str, tuple[int, int, int]] = {}
    at = _after_space(text, _after_space(text, 0) + 1)
    while text[at] != "}":
        start = at
        key, at = decoder.raw_decode(text, at)
        value = _after_space(text, _after_space(text, at) + 1)
        _, end = decoder.raw_decode(text, value)
        members[key] = (start, value, end)
        at = _after_space(text, end)
        if text[at] == ",":
            at = _after_space(text, at + 1)
    return members


def _after_space(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    return found.end() if found else at


def _into_list(text: str, member: tuple[int, int, int], value: str) -> str:
    """Before the first item, with the space that stands before it."""
    start = member[1] + 1
    first = _after_space(text, start)
    if text[first] == "]":
        return text[:start] + json.dumps(value) + text[first:]
    space = text[start:first]
    return text[:start] + space + json.dumps(value) + "," + (space or " ") + text[first:]


def _new_member(text: str, members: dict[str, tuple[int, int, int]], key: str, value: str) -> str:
    """After the last member, on a line of its own where that has one; a null of that name is replaced."""
    said = f"{json.dumps(key)}: [{json.dumps(value)}]"
    if key in members:
        start, _, end = members[key]
        return text[:start] + said + text[end:]
    if not members:
        opening = text.index("{") + 1
        close = _after_space(text, opening)
        new = newline_of(text)
        return text[:opening] + new + "  " + said + new + text[close:]
    start, _, end = list(members.values())[-1]
    before = re.search(r"[,{]([ \t\r\n]*)\Z", text[:start])
    return text[:end] + "," + (before[1] if before else " ") + said + text[end:]
