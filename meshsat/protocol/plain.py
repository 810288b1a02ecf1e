"""Events, effects and settings as plain values (lists, texts, numbers), and back: derived from their types.

Law: what the fields of a dataclass are declared to be decides its form, so that a new event or a new field
needs nothing here. A declared type that has no form fails when the form is made, not when it is used.
Reading is strict: exactly that many fields, of exactly these types, or `InvalidInputError`.
"""

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from meshsat.protocol import wire
from meshsat.trust.keys import PeerId, parse_peer_id_untrusted

INTEGER_LIMIT = 1 << 64


@dataclass(frozen=True, slots=True)
class Form:
    """How values of one type are written and read. `read` raises `InvalidInputError`, and nothing else."""

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def _exactly(kind: type) -> Form:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise InvalidInputError(f"a {kind.__name__} is missing")
        return value

    return Form(_same, read)


def _read_integer(value: Any) -> int:
    if type(value) is not int or not -INTEGER_LIMIT < value < INTEGER_LIMIT:
        raise InvalidInputError("a whole number is missing or out of range")
    return value


def _read_number(value: Any) -> float:
    if type(value) is not float or value != value:  # noqa: PLR0124 - NaN
        raise InvalidInputError("a number is missing")
    return value


def _read_frame(value: Any) -> wire.Frame:
    if type(value) is not bytes:
        raise InvalidInputError("a frame is missing")
    return wire.decode_header_untrusted(value)


_FORMS: dict[Any, Form] = {
    bool: _exactly(bool),
    str: _exactly(str),
    bytes: _exactly(bytes),
    int: Form(_same, _read_integer),
    float: Form(float, _read_number),
    PeerId: Form(_same, parse_peer_id_untrusted),
    Digest: Form(str, Digest.parse_untrusted),
    wire.Frame: Form(lambda frame: wire.encode(frame)[wire.PREFIX.size :], _read_frame),
}


@cache
def form_of(declared: Any) -> Form:
    """Raises `TypeError` for a type that has none."""
    if declared in _FORMS:
        return _FORMS[declared]
    origin, arguments = get_origin(declared), get_args(declared)
    if origin in (Union, types.UnionType) and len(arguments) == 2 and type(None) in arguments:
        return _optional(form_of(next(one for one in arguments if one is not type(None))))
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _listed(form_of(arguments[0]))
    if origin is tuple:
        return _row(tuple, [form_of(one) for one in arguments], tuple)
    if isinstance(declared, type) and issubclass(declared, IntEnum):
        return _enumerated(declared)
    if isinstance(declared, type) and hasattr(declared, "__dataclass_fields__"):
        hints = get_type_hints(declared)
        names = [one.name for one in fields(declared)]
        return _row(
            declared,
            [form_of(hints[name]) for name in names],
            lambda value: [getattr(value, name) for name in names],
        )
    raise TypeError(f"{declared} has no plain form: give it one")


def _optional(inner: Form) -> Form:
    return Form(
        lambda value: None if value is None else inner.write(value),
        lambda value: None if value is None else inner.read(value),
    )


def _listed(inner: Form) -> Form:
    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise InvalidInputError("a list is missing")
        return tuple(map(inner.read, value))

    return Form(lambda value: list(map(inner.write, value)), read)


def _row(kind: Any, inner: Sequence[Form], parts: Callable[[Any], Sequence[Any]]) -> Form:
    def write(value: Any) -> list[Any]:
        return [form.write(part) for form, part in zip(inner, parts(value), strict=True)]

    def read(value: Any) -> Any:
        if type(value) is not list or len(value) != len(inner):
            raise InvalidInputError(f"a {kind.__name__} has {len(inner)} fields")
        read_parts = [form.read(part) for form, part in zip(inner, value, strict=True)]
        return tuple(read_parts) if kind is tuple else kind(*read_parts)

    return Form(write, read)


def _enumerated(kind: type[IntEnum]) -> Form:
    def read(value: Any) -> IntEnum:
        try:
            return kind(_read_integer(value))
        except ValueError:
            raise InvalidInputError(f"{value} is no {kind.__name__}") from None

    return Form(int, read)


def outline(kinds: Sequence[type]) -> str:
    """Names, fields and types of these classes, as a text: equal where their plain forms are."""
    return "\n".join(
        f"{kind.__name__}({', '.join(f'{one.name}: {hints[one.name]}' for one in fields(kind))})"
        for kind in kinds
        for hints in [get_type_hints(kind)]
    )
