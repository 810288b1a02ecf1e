"""A change of files as people read one: a unified diff, without the secrets that stand near it."""

import re
from collections.abc import Iterator
from difflib import unified_diff

from meshsat.runtime.apply import Change

SECRET = re.compile(
    r"""(?ix) ( ["']? [\w.-]* (?: password | passwd | secret | token | auth | credential ) s? ["']? )
    ( \s* [:=] \s* ) (?! \s | \{ | \[ ) .+ """
)
ABSENT = "/dev/null"


def diff(change: Change) -> Iterator[str]:
    """Lines of the diff, without their ends."""
    old, new = _lines(change.now), _lines(change.then)
    before = ABSENT if change.now is None else f"a{change.path}"
    after = ABSENT if change.then is None else f"b{change.path}"
    for line in unified_diff(old, new, before, after, lineterm=""):
        yield SECRET.sub(r"\1\2***", line)


def summary(change: Change) -> str:
    """`+ path` for a new file, `- path` for one that goes, `~ path` for one that is edited."""
    sign = "+" if change.now is None else "-" if change.then is None else "~"
    return f"{sign} {change.path}"


def _lines(data: bytes | None) -> list[str]:
    return (data or b"").decode("utf-8", "replace").splitlines()
