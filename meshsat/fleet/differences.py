"""What is different between two desired states, for a person who is to sign the second.

Law: pure. An image is the same one if its name and whom it is for are.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from meshsat.fleet.document import DesiredImage, DesiredState, Limits

Kind = Literal["added", "removed", "changed"]


@dataclass(frozen=True, slots=True)
class Difference:
    kind: Kind
    what: str
    """`image r.example/pos:1 (sites: a*)`, `group eu`, `limits`, `pull_through`, `signatures`."""
    fields: Mapping[str, tuple[Any, Any]]
    """Of what was changed: before and after, as in the document."""


def differences(before: DesiredState, after: DesiredState) -> list[Difference]:
    """Images first, in the order of importance afterwards."""
    images = _between("image", _by_key(before.images), _by_key(after.images), _image_name)
    found = [
        *images,
        *_between("group", before.groups, after.groups, str),
        *_between("limits", _by_key(before.limits), _by_key(after.limits), _limits_name),
    ]
    whole = {"pull_through": (before.pull_through, after.pull_through)}
    for name, (one, other) in whole.items():
        found += _between(name, _only(one), _only(other), lambda _: "")
    rules = (before.signatures, after.signatures)
    if rules[0] != rules[1]:
        texts = tuple(
            None if one is None else [rule.model_dump(mode="json") for rule in one] for one in rules
        )
        found.append(Difference("changed", "signatures", {"rules": (texts[0], texts[1])}))
    kept = [key for key in _by_key(before.images) if key in _by_key(after.images)]
    if kept != [key for key in _by_key(after.images) if key in _by_key(before.images)]:
        found.append(Difference("changed", "order of the images", {}))
    return found


def _by_key(scopes: Iterable[DesiredImage | Limits]) -> dict[Hashable, Any]:
    found: dict[Hashable, Any] = {}
    for one in scopes:
        name = one.name if isinstance(one, DesiredImage) else ""
        found.setdefault((name, one.sites, one.groups), one)
    return found


def _only(value: BaseModel | None) -> dict[Hashable, BaseModel]:
    return {} if value is None else {"": value}


def _between(
    what: str, before: Mapping[Any, BaseModel], after: Mapping[Any, BaseModel], name: Any
) -> list[Difference]:
    found: list[Difference] = []
    for key, other in after.items():
        title = f"{what} {name(key)}".strip()
        one = before.get(key)
        if one is None:
            found.append(Difference("added", title, {}))
        elif one != other:
            old, new = one.model_dump(mode="json"), other.model_dump(mode="json")
            fields = {field: (old[field], new[field]) for field in new if old[field] != new[field]}
            found.append(Difference("changed", title, fields))
    found += [Difference("removed", f"{what} {name(key)}".strip(), {}) for key in before if key not in after]
    return found


def _image_name(key: tuple[str, tuple[str, ...], tuple[str, ...]]) -> str:
    return f"{key[0]}{_scope(key)}"


def _limits_name(key: tuple[str, tuple[str, ...], tuple[str, ...]]) -> str:
    return _scope(key).strip()


def _scope(key: tuple[str, tuple[str, ...], tuple[str, ...]]) -> str:
    _, sites, groups = key
    words = [f"{name}: {', '.join(named)}" for name, named in (("sites", sites), ("groups", groups)) if named]
    return f" ({'; '.join(words)})" if words else ""
