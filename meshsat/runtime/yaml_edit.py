"""Puts endpoints first in the `mirrors` of a registries.yaml, and leaves every other byte as it was.

Law: the change is made on the text, at the places that the parser tells, and then checked: parsed, the result
must be what was parsed before with just this change. Where the text is too unusual for that, ruamel.yaml
writes it anew, which keeps comments and order, and is checked the same way. Otherwise `InvalidInputError`
says what to do by hand.
"""

import copy
import json
import re
from collections.abc import Callable, Sequence
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from meshsat.errors import InvalidInputError
from meshsat.runtime.formats import parse_yaml_untrusted, text_untrusted
from meshsat.runtime.lines import ended, indent_of, newline_of, split

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


def put_first(path: str, data: bytes, hosts: Sequence[str], url: str) -> bytes:
    """The file with `url` first among the endpoints of each of `hosts`, made where they are missing.

    Raises `InvalidInputError`.
    """
    text = text_untrusted(path, data)
    found = parse_yaml_untrusted(path, data)
    expected = with_first(found, hosts, url)
    ways: tuple[Callable[[], str], ...] = (
        lambda: _in_text(text, hosts, url),
        lambda: _by_ruamel(text, hosts, url),
    )
    return _checked(
        path, expected, ways, f"put {url} first among the endpoints of {', '.join(hosts)} yourself"
    )


def add_config(path: str, data: bytes, host: str, ca_file: str) -> bytes:
    """The file with `configs: HOST: tls: ca_file:`; one that is there stays as it is.

    Raises `InvalidInputError`.
    """
    text = text_untrusted(path, data)
    found = parse_yaml_untrusted(path, data)
    if (found.get("configs") or {}).get(host):
        return data
    expected = copy.deepcopy(found)
    expected["configs"] = {**(found.get("configs") or {}), host: {"tls": {"ca_file": ca_file}}}
    entry = [f"{quoted(host)}:", "  tls:", f"    ca_file: {quoted(ca_file)}"]
    ways: tuple[Callable[[], str], ...] = (lambda: _under(text, "configs", entry),)
    return _checked(path, expected, ways, f"set configs.{host}.tls.ca_file to {ca_file} yourself")


def with_first(found: dict[str, Any], hosts: Sequence[str], url: str) -> dict[str, Any]:
    """What a registries.yaml says with `url` first for `hosts`."""
    expected = copy.deepcopy(found)
    mirrors = dict(expected.get("mirrors") or {})
    for host in hosts:
        entry = dict(mirrors.get(host) or {})
        mirrors[host] = {**entry, "endpoint": [url, *(entry.get("endpoint") or [])]}
    return {**expected, "mirrors": mirrors}


def quoted(text: str) -> str:
    """`text` as a YAML scalar that is a text."""
    plain = PLAIN.fullmatch(text) and not re.fullmatch(
        r"[\d.eE+-]+|true|false|yes|no|on|off|null|y|n", text, re.IGNORECASE
    )
    return text if plain else json.dumps(text)


def _checked(path: str, expected: dict[str, Any], ways: Sequence[Callable[[], str]], advice: str) -> bytes:
    for way in ways:
        try:
            changed = way().encode()
            if parse_yaml_untrusted(path, changed) == expected:
                return changed
        except (InvalidInputError, YAMLError, LookupError, TypeError, ValueError, AttributeError):
            continue
    raise InvalidInputError(f"{path}: written so that it cannot be changed safely; {advice}")


def _in_text(text: str, hosts: Sequence[str], url: str) -> str:
    document = YAML().load(text)
    mirrors = (document.get("mirrors") if document else None) or CommentedMap()
    missing = [host for host in hosts if host not in mirrors]
    edits = [_edit(text, mirrors, host, url) for host in hosts if host not in missing]
    lines = split(text)
    for line, column, new in sorted(edits, reverse=True):
        if column is None:
            lines.insert(line, new)
        else:
            lines[line] = lines[line][:column] + new + lines[line][column:]
    entry = [line for host in missing for line in (f"{quoted(host)}:", "  endpoint:", f"    - {quoted(url)}")]
    return _under("".join(lines), "mirrors", entry) if entry else "".join(lines)


def _edit(text: str, mirrors: CommentedMap, host: str, url: str) -> tuple[int, int | None, str]:
    """Where to put what for a host that is there: (line, column, text), or a line of its own."""
    entry = mirrors[host]
    new, lines = newline_of(text), split(ended(text))
    items = entry.get("endpoint") if entry is not None else None
    if isinstance(items, CommentedSeq) and items:
        if items.fa.flow_style():
            return items.lc.line, items.lc.col + 1, f"{quoted(url)}, "
        line = items.lc.item(0)[0]
        return line, None, f"{indent_of(lines[line])}- {quoted(url)}{new}"
    line, column = mirrors.lc.key(host)
    if entry is None:
        inner = " " * (column + 2)
        return line + 1, None, f"{inner}endpoint:{new}{inner}  - {quoted(url)}{new}"
    first = next(iter(entry))
    line, column = entry.lc.key(first)
    return line, None, f"{' ' * column}endpoint:{new}{' ' * column}  - {quoted(url)}{new}"


def _under(text: str, section: str, entry: Sequence[str]) -> str:
    """`entry` as first under the top-level `section`, which is made at the end where it is missing."""
    document = YAML().load(text)
    lines, new = split(ended(text)), newline_of(text)
    if not document or section not in document:
        return "".join([*lines, f"{section}:{new}", *(f"  {line}{new}" for line in entry)])
    line, _ = document.lc.key(section)
    inner = document[section]
    column = inner.lc.key(next(iter(inner)))[1] if inner else 2
    lines[line + 1 : line + 1] = [f"{' ' * column}{one}{new}" for one in entry]
    return "".join(lines)


def _by_ruamel(text: str, hosts: Sequence[str], url: str) -> str:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    document = yaml.load(text)
    if document.get("mirrors") is None:
        document["mirrors"] = {}
    for host in hosts:
        entry = document["mirrors"].get(host)
        if entry is None:
            entry = document["mirrors"][host] = {}
        if entry.get("endpoint") is None:
            entry["endpoint"] = []
        if url not in entry["endpoint"]:
            entry["endpoint"].insert(0, url)
    out = StringIO()
    yaml.dump(document, out)
    changed = out.getvalue()
    return changed.replace("\n", "\r\n") if newline_of(text) == "\r\n" else changed
