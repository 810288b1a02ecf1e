"""What the images of a bundle are called where they are brought: as the bundle says, or as `--as` says."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from meshsat.bundle.layout import Entry
from meshsat.errors import InvalidInputError
from meshsat.oci.reference import DEFAULT_TAG, Reference


@dataclass(frozen=True, slots=True)
class Renaming:
    """`REGISTRY/NAME` for all images, which keep their tags; or a full reference, for one image."""

    target: Reference
    whole: bool

    @classmethod
    def parse_untrusted(cls, text: str) -> "Renaming":
        """Raises `InvalidInputError`."""
        target = Reference.parse_untrusted(text)
        return cls(target, whole=any(mark in text.rpartition("/")[2] for mark in ":@"))


def named(entries: Sequence[Entry], renaming: Renaming | None) -> list[Entry]:
    """With the references that they are to have; those that have none after all stay without.

    Raises `InvalidInputError` when one reference would be given to several images.
    """
    if renaming is None:
        return list(entries)
    if not renaming.whole:
        return [replace(entry, reference=_in_repository(entry, renaming.target)) for entry in entries]
    roots = {entry.root.digest for entry in entries}
    if len(roots) > 1:
        raise InvalidInputError(
            f"--as {renaming.target}: there are {len(roots)} images; give a name without a tag, and each"
            " keeps its own"
        )
    return [replace(entry, reference=renaming.target) for entry in entries[:1]]


def beside(entry: Entry, renaming: Renaming | None) -> Entry:
    """What refers to images goes to the repository where they go."""
    if renaming is None or entry.reference is None:
        return entry
    return replace(entry, reference=_in_repository(entry, renaming.target))


def _in_repository(entry: Entry, target: Reference) -> Reference:
    old = entry.reference
    if old is not None and old.tag is None:
        return Reference(target.registry, target.repository, None, old.digest)
    tag = entry.tag or (old.tag if old is not None else None) or DEFAULT_TAG
    return Reference(target.registry, target.repository, tag)
