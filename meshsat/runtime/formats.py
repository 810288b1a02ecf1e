"""Configuration files, read as what they are: TOML, YAML, JSON.

Law: whatever the bytes, a value comes back or `InvalidInputError`, which names the file and, where the
format's parser knows it, the line. Nothing here keeps layout: that is the editors' business (`toml_edit`,
`yaml_edit`, `json_edit`).
"""

import json
import tomllib
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent

from meshsat.errors import InvalidInputError

SIZE_LIMIT = 1024 * 1024
"""Bytes. No runtime's configuration is near it."""
ALIAS_LIMIT = 32
"""Aliases in a YAML file. Few files have any; many can stand for more than memory holds."""
DEEPEST = 64
"""Levels of nesting. Configurations have under ten; parsers fall over some hundreds."""


def parse_toml_untrusted(path: str, data: bytes) -> dict[str, Any]:
    """The tables of a TOML 1.0 file. Raises `InvalidInputError`."""
    text = text_untrusted(path, data)
    try:
        return mapping(path, bounded(path, tomllib.loads(text)))
    except tomllib.TOMLDecodeError as fault:
        raise InvalidInputError(f"{path} is not valid TOML: {fault}; nothing was changed") from None
    except (RecursionError, ValueError, OverflowError):
        raise InvalidInputError(
            f"{path} is not valid TOML: nested too deep or a value out of range"
        ) from None


def parse_json_untrusted(path: str, data: bytes) -> dict[str, Any]:
    """The object of a JSON file; an empty file is an empty object. Raises `InvalidInputError`."""
    text = text_untrusted(path, data)
    if not text.strip():
        return {}
    try:
        found = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as fault:
        raise InvalidInputError(
            f"{path} is not valid JSON: line {fault.lineno}: {fault.msg}; nothing was changed"
        ) from None
    except _TwiceError as twice:
        raise InvalidInputError(f"{path} has the key {twice} twice: keep one of them") from None
    except (RecursionError, ValueError):
        raise InvalidInputError(f"{path} is not valid JSON: nested too deep or a number too long") from None
    return mapping(path, bounded(path, found))


def parse_yaml_untrusted(path: str, data: bytes) -> dict[str, Any]:
    """The mapping of a YAML file of one document; an empty file is an empty mapping.

    Raises `InvalidInputError`.
    """
    text = text_untrusted(path, data)
    try:
        aliases = sum(
            isinstance(event, AliasEvent) for event in YAML(typ="safe", pure=True).parse(StringIO(text))
        )
        if aliases > ALIAS_LIMIT:
            raise InvalidInputError(f"{path} has {aliases} aliases: more than {ALIAS_LIMIT} are not followed")
        found = YAML(typ="safe", pure=True).load(StringIO(text))
    except MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        where = f"line {mark.line + 1}: " if mark is not None else ""
        said = str(fault.problem or fault.context).partition(" with value")[0]  # which may be a secret
        raise InvalidInputError(f"{path} is not valid YAML: {where}{said}; nothing was changed") from None
    except (
        YAMLError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        AssertionError,
        NotImplementedError,
        OverflowError,
        RecursionError,
    ) as fault:  # the library's constructors raise them for odd tags and scalars
        raise InvalidInputError(f"{path} is not YAML that can be read: {type(fault).__name__}") from None
    return {} if found is None else mapping(path, bounded(path, found))


def text_untrusted(path: str, data: bytes) -> str:
    """UTF-8 without a byte order mark. Raises `InvalidInputError`."""
    if len(data) > SIZE_LIMIT:
        raise InvalidInputError(f"{path} has {len(data)} bytes: no configuration is over {SIZE_LIMIT}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        raise InvalidInputError(f"{path} is not UTF-8: line {line}; nothing was changed") from None
    if text.startswith("\ufeff"):
        raise InvalidInputError(f"{path} begins with a byte order mark: save it without one")
    return text


def mapping(path: str, found: Any) -> dict[str, Any]:
    """`found` as the table that a configuration is. Raises `InvalidInputError`."""
    if not isinstance(found, dict):
        raise InvalidInputError(f"{path} holds no table of settings, but a {type(found).__name__}")
    return found


def table(path: str, parent: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The table under `keys`; empty where there is none (or null). Raises `InvalidInputError`."""
    for key in keys:
        inner = parent.get(key)
        if inner is not None and not isinstance(inner, dict):
            raise InvalidInputError(f"{path}: {key} must be a table, not {type(inner).__name__}")
        parent = inner or {}
    return parent


def texts(path: str, name: str, value: Any) -> list[str]:
    """A list of texts; none for None. Raises `InvalidInputError`."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidInputError(f"{path}: {name} must be a list of texts")
    return list(value)


class _TwiceError(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(repr(next(key for key in keys if keys.count(key) > 1)))
    return found


def bounded(path: str, value: Any) -> Any:
    """`value`, if it is no deeper than `DEEPEST` and no tree without end. Raises `InvalidInputError`."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
        if len(level) > SIZE_LIMIT:
            break
    raise InvalidInputError(f"{path} is nested too deep or too wide for a configuration")
