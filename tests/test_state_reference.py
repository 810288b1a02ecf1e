"""docs/reference/state.md says what a desired state may say, all of it and nothing else, with its defaults."""

import re
import typing
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from meshsat.fleet.document import DesiredState

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "state.md"
BESIDE = {"expires"}
"""What is said of the document, and is not in its body (fleet/authoring.py)."""
ELSEWHERE = {"pull_through"}
"""Sections that another page documents."""


def inner(annotation: object) -> type[BaseModel] | None:
    """The model within lists, tables and options."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((one for part in typing.get_args(annotation) if (one := inner(part)) is not None), None)


def words(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        yield f"{above}{name}", field.default
        below = inner(field.annotation)
        if below is not None and name not in ELSEWHERE:
            yield from words(below, f"{above}{name}.")


def documented() -> dict[str, str]:
    """Word -> what its row says of type and default."""
    rows = re.findall(r"^\| (`[a-z_.`, ]+`) \| ([^|]*\|[^|]*) \|", PAGE.read_text(), re.MULTILINE)
    return {name: rest for names, rest in rows for name in re.findall(r"`([a-z_.]+)`", names)}


def test_every_word_is_there_and_nothing_else() -> None:
    known = {name for name, _ in words(DesiredState)} | BESIDE
    assert set(documented()) == known


def test_defaults_are_those_of_the_document() -> None:
    told = documented()
    for name, default in words(DesiredState):
        if isinstance(default, str | int | float) and not isinstance(default, bool):
            written = f'`"{default}"`' if isinstance(default, str) else f"`{default}`"
            assert written in told[name], name
