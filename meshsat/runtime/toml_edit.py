"""Small changes to TOML that leave every other byte as it was.

Law: a change is made on the text and then checked: parsed, the result must be what was parsed before with
just this change. Where the text is too unusual for that, tomlkit makes the change, which keeps comments and
order, and is checked the same way. Otherwise `InvalidInputError` says what to write by hand.
"""

import copy
import re
import tomllib
from collections.abc import Callable, Sequence
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from meshsat.errors import InvalidInputError
from meshsat.runtime.formats import parse_toml_untrusted, text_untrusted
from meshsat.runtime.lines import as_lines, ended, indent_of, newline_of, split

HEADER = re.compile(r"\s*\[.*\]\s*(#.*)?\r?\n?$")
Keys = tuple[str, ...]


def quoted(text: str) -> str:
    """`text` as a TOML string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else c for c in escaped) + '"'


def dotted(keys: Sequence[str]) -> str:
    """`keys` as a header or a dotted key names them."""
    return ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else quoted(key) for key in keys)


def set_text(path: str, data: bytes, keys: Keys, value: str) -> bytes:
    """The file with the text `value` under `keys`, the last of which is a key of the table before it.

    Raises `InvalidInputError`.
    """
    text = text_untrusted(path, data)
    expected = copy.deepcopy(parse_toml_untrusted(path, data))
    inner = expected
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
        if not isinstance(inner, dict):
            raise InvalidInputError(f"{path}: {key} must be a table: it cannot hold {dotted(keys)}")
    inner[keys[-1]] = value
    ways: tuple[Callable[[], str], ...] = (
        lambda: _set_in_text(text, keys, value),
        lambda: _set_by_tomlkit(text, keys, value),
    )
    for way in ways:
        try:
            changed = way()
        except (TOMLKitError, LookupError, TypeError, ValueError, AttributeError):
            continue
        if _means(changed, expected):
            return changed.encode()
    raise InvalidInputError(
        f"{path}: written so that it cannot be changed safely; set {dotted(keys)} = {quoted(value)} yourself"
    )


def comment_out(path: str, data: bytes, gone: Sequence[Keys], reason: str) -> bytes:
    """The file with the tables `gone`, and what is below them, as comments under a line with the `reason`.

    Raises `InvalidInputError`.
    """
    text = text_untrusted(path, data)
    expected = copy.deepcopy(parse_toml_untrusted(path, data))
    for keys in gone:
        _drop(expected, keys)
    out: list[str] = []
    inside = False
    for line, header in zip(split(text), headers(text), strict=True):
        was, inside = inside, header is not None and any(header[: len(keys)] == keys for keys in gone)
        if inside and not was:
            out += as_lines(text, f"{indent_of(line)}# {reason}")
        rest = line[len(indent_of(line)) :]
        out.append(f"{indent_of(line)}# {rest}" if inside and rest.strip() else line)
    changed = "".join(out)
    if not _means(changed, expected):
        names = " and ".join(f"[{dotted(keys)}]" for keys in gone)
        raise InvalidInputError(f"{path}: {names} cannot be taken out safely; {reason}: do that by hand")
    return changed.encode()


def insert_before_tables(path: str, data: bytes, new: Sequence[str]) -> bytes:
    """The file with the lines `new` after its top-level keys, before its first table.

    Raises `InvalidInputError`.
    """
    text = text_untrusted(path, data)
    parse_toml_untrusted(path, data)
    lines = split(ended(text))
    at = next(
        (number for number, header in enumerate(headers(ended(text))) if header is not None), len(lines)
    )
    while 0 < at <= len(lines) and at != len(lines) and lines[at - 1].lstrip().startswith("#"):
        at -= 1  # a comment right above a table belongs to it
    gap = [""] if at and lines[at - 1].strip() else []
    tail = [""] if at < len(lines) else []
    changed = "".join([*lines[:at], *as_lines(text, *gap, *new, *tail), *lines[at:]])
    parse_toml_untrusted(path, changed.encode())
    return changed.encode()


def headers(text: str) -> list[Keys | None]:
    """For each line the keys of the table that it stands in, its own header line included;
    None before the first.
    """
    found: list[Keys | None] = []
    now: Keys | None = None
    for line in split(text):
        if HEADER.match(line) and (keys := _keys_of(line)) is not None:
            now = keys
        found.append(now)
    return found


def _keys_of(header: str) -> Keys | None:
    """The keys that a header line names; None where it is no header after all."""
    try:
        inner: Any = tomllib.loads(header.strip())
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
    keys: list[str] = []
    while isinstance(inner, dict | list) and inner:
        if isinstance(inner, list):
            inner = inner[0]
            continue
        ((key, inner),) = inner.items()
        keys.append(key)
    return tuple(keys) or None


def _set_in_text(text: str, keys: Keys, value: str) -> str:
    """Change the line of the key, or add one under the table's header, or add the table."""
    tables, key = keys[:-1], keys[-1]
    lines = split(ended(text))
    places = headers(ended(text))
    line_of_key = re.compile(
        rf"([ \t]*)({re.escape(key)}|\"{re.escape(key)}\"|'{re.escape(key)}')([ \t]*=[ \t]*)"
    )
    for number, (line, place) in enumerate(zip(lines, places, strict=True)):
        if place == tables and (found := line_of_key.match(line)):
            rest = re.fullmatch(r"(\"[^\"\\]*\"|'[^']*')([ \t]*(#[^\r\n]*)?\r?\n?)", line[found.end() :])
            if rest:
                lines[number] = found[0] + quoted(value) + rest[2]
                return "".join(lines)
            raise ValueError(key)
    for number, place in enumerate(places):
        if place == tables:
            lines.insert(
                number + 1, f"{_inner_indent(lines, number)}{key} = {quoted(value)}{newline_of(text)}"
            )
            return "".join(lines)
    gap = [""] if lines and lines[-1].strip() else []
    lines += as_lines(text, *gap, f"[{dotted(tables)}]", f"  {key} = {quoted(value)}")
    return "".join(lines)


def _inner_indent(lines: Sequence[str], header: int) -> str:
    """How the keys below the header are indented, or would be."""
    outer = indent_of(lines[header])
    below = lines[header + 1] if header + 1 < len(lines) else ""
    if below.strip() and indent_of(below).startswith(outer) and not HEADER.match(below):
        return indent_of(below)
    return outer + ("\t" if "\t" in outer else "  ")


def _set_by_tomlkit(text: str, keys: Keys, value: str) -> str:
    document = tomlkit.parse(text)
    inner: Any = document
    for key in keys[:-1]:
        if key not in inner:
            inner[key] = tomlkit.inline_table() if "Inline" in type(inner).__name__ else tomlkit.table()
        inner = inner[key]
    inner[keys[-1]] = value
    changed = tomlkit.dumps(document)
    return re.sub(r"(?<!\r)\n", "\r\n", changed) if newline_of(text) == "\r\n" else changed


def _drop(tables: dict[str, Any], keys: Keys) -> None:
    for key in keys[:-1]:
        tables = tables[key]
    tables.pop(keys[-1], None)


def _means(text: str, expected: dict[str, Any]) -> bool:
    """Whether `text` says what is `expected`; tables without anything in them say nothing."""
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return False
    return bool(_filled(found) == _filled(expected))


def _filled(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    filled = {key: _filled(inner) for key, inner in value.items()}
    return {key: inner for key, inner in filled.items() if inner != {}}
