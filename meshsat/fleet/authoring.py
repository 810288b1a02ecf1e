"""Desired states as people write them: TOML or YAML, with what is said of the document beside what it says.

Law: whatever is wrong is told with the file and where in it, before anything is signed.
"""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent

from meshsat.errors import InvalidInputError
from meshsat.fleet.document import DOCUMENT_LIMIT, DesiredState, state_of
from meshsat.oci.reference import Reference

SUFFIXES = (".toml", ".yaml", ".yml")
ALIAS_LIMIT = 1000
NODES_LIMIT = 1_000_000
"""Values in a file, each alias counted as all that it stands for."""


@dataclass(frozen=True, slots=True)
class Authored:
    state: DesiredState
    expires: str | None
    """How long it is to be good, as written: `90d`."""


def is_authored(name: str) -> bool:
    """Whether a file of that name is one that people write."""
    return name.endswith(SUFFIXES)


def parse_authored_untrusted(name: str, raw: bytes) -> Authored:
    """The file's `name` says what it is, and is told in errors. Raises `InvalidInputError`."""
    if len(raw) > DOCUMENT_LIMIT:
        raise InvalidInputError(f"{name}: a desired state has at most {DOCUMENT_LIMIT} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        line = raw.count(b"\n", 0, fault.start) + 1
        raise InvalidInputError(f"{name}: line {line} is not UTF-8") from None
    try:
        value = tomllib.loads(text) if name.endswith(".toml") else _yaml(text)
        return _authored_untrusted(value)
    except tomllib.TOMLDecodeError as fault:
        raise InvalidInputError(f"{name} is not valid TOML: {fault}") from None
    except InvalidInputError as fault:
        raise InvalidInputError(f"{name}: {fault}") from None
    except (RecursionError, ValueError, OverflowError):
        raise InvalidInputError(f"{name}: nested too deep, or a value out of range") from None


def _authored_untrusted(value: Any) -> Authored:
    _check_size(value)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InvalidInputError("a desired state is a table with images, groups, limits and the like")
    expires = value.pop("expires", None)
    if expires is not None and not isinstance(expires, str):
        raise InvalidInputError('expires: write a duration like "90d"')
    return Authored(state_of(value), expires)


def pinned(state: DesiredState, resolve: Callable[[Reference], str]) -> DesiredState:
    """The same with a digest for each tag that has none. Raises what `resolve` raises."""
    images = []
    for image in state.images:
        reference = image.parsed
        if reference.digest is None:
            image = image.model_copy(update={"reference": f"{image.name}@{resolve(reference)}"})  # noqa: PLW2901
        images.append(image)
    return state.model_copy(update={"images": tuple(images)})


def _yaml(text: str) -> Any:
    try:
        parser = YAML(typ="safe", pure=True)
        if sum(isinstance(event, AliasEvent) for event in parser.parse(StringIO(text))) > ALIAS_LIMIT:
            raise InvalidInputError(f"more than {ALIAS_LIMIT} aliases")
        return YAML(typ="safe", pure=True).load(StringIO(text))
    except MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise InvalidInputError(f"not valid YAML: {where}{fault.problem or fault.context}") from None
    except (YAMLError, TypeError, LookupError, AttributeError, AssertionError, NotImplementedError) as fault:
        # the library's constructors raise them for odd tags and scalars
        raise InvalidInputError(f"not YAML that can be read: {type(fault).__name__}") from None


def _check_size(root: Any) -> None:
    """Without recursion: an alias may stand for what it is part of, or for more than there is memory."""
    left, level = NODES_LIMIT, [root]
    while level:
        left -= len(level)
        if left < 0:
            raise InvalidInputError("its aliases stand for too much")
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
