"""Pattern: which references a rule is for: `REGISTRY/REPOSITORY[:TAG]` with wildcards.

  *    any characters, none included, within one element (never a "/")
  **   any characters, "/" included: `harbor.example/**` is all of that registry, `**` is everything

A pattern stands for the whole of a name, not for a part of it. Without `:TAG` it is for every tag and digest
of the repository; in a tag `*` is any characters. The registry belongs to it, since the same
repository means another thing elsewhere; on Docker Hub a name of one element is short for library/NAME, as
in references.

Laws: compiled once; matching costs a fixed number of operations a character, whatever the pattern: the set
of places in the pattern that may be next is one integer (Baeza-Yates and Gonnet, "A new approach to text
searching", 1992), so nothing is ever tried twice.
"""

import re
from dataclasses import dataclass, field
from typing import Self

from meshsat.errors import InvalidInputError
from meshsat.oci.reference import DOCKER_HUB, Reference, looks_like_registry

PATTERN_LIMIT = 512
"""Characters."""

_REGISTRY = re.compile(r"[a-z0-9.:\[\]*-]+")
_REPOSITORY = re.compile(r"[a-z0-9._*-]+(?:/[a-z0-9._*-]+)*")
_TAG = re.compile(r"[A-Za-z0-9_.*-]{1,128}")


class Glob:
    """A text with wildcards, compiled. Place p is before the p-th literal character; the last is the end."""

    __slots__ = ("_across", "_end", "_literals", "_within")

    def __init__(self, text: str) -> None:
        self._literals: dict[str, int] = {}
        """Character -> the places at which it is the next literal."""
        self._within = self._across = 0
        """The places at which `*` and `**` stand: they stay possible over any character but "/", and any."""
        place, at = 1, 0
        while at < len(text):
            if text.startswith("**", at):
                self._across |= place
                at += 2
            elif text[at] == "*":
                self._within |= place
                at += 1
            else:
                self._literals[text[at]] = self._literals.get(text[at], 0) | place
                place <<= 1
                at += 1
        self._end = place

    def matches(self, text: str) -> bool:
        places = 1
        for character in text:
            stay = self._across if character == "/" else self._across | self._within
            places = (places & self._literals.get(character, 0)) << 1 | places & stay
            if not places:
                return False
        return bool(places & self._end)


@dataclass(frozen=True, slots=True)
class Pattern:
    """Equal when written alike. Build with `parse_untrusted`."""

    text: str
    """As it was understood: registry in lower case, Docker Hub's names in full."""
    _name: Glob = field(repr=False, compare=False)
    _tag: Glob | None = field(repr=False, compare=False)

    @classmethod
    def parse_untrusted(cls, text: object) -> Self:
        """Raises `InvalidInputError`: what is wrong with it, and how it is written."""
        if not isinstance(text, str) or not text or len(text) > PATTERN_LIMIT:
            raise InvalidInputError(f"pattern: 1 to {PATTERN_LIMIT} characters, REGISTRY/REPOSITORY[:TAG]")
        try:
            name, tag = _split(text)
        except InvalidInputError as fault:
            raise InvalidInputError(f"pattern {text!r}: {fault}") from None
        whole = name if tag is None else f"{name}:{tag}"
        return cls(whole, Glob(name), None if tag is None else Glob(tag))

    @property
    def has_tag(self) -> bool:
        """Whether it is for some tags only."""
        return self._tag is not None

    def matches_name(self, registry: str, repository: str) -> bool:
        """Whether it is for that repository, or for some of its tags."""
        return self._name.matches(f"{registry}/{repository}")

    def matches(self, registry: str, repository: str, tag: str | None) -> bool:
        """Whether it is for that tag; `tag` None: for the whole repository, tags or digests alike."""
        if self._tag is not None and (tag is None or not self._tag.matches(tag)):
            return False
        return self.matches_name(registry, repository)

    def matches_reference(self, reference: Reference) -> bool:
        return self.matches(reference.registry, reference.repository, reference.tag)

    def __str__(self) -> str:
        return self.text


def _split(text: str) -> tuple[str, str | None]:
    """Its name and its tag, checked. Raises `InvalidInputError`."""
    if "***" in text:
        raise InvalidInputError("write * for one element and ** for any number")
    if "@" in text:
        raise InvalidInputError("patterns are for names and tags, not for digests")
    head, slash, last = text.rpartition("/")
    last, colon, tag = last.partition(":")
    if colon and ("**" in tag or not _TAG.fullmatch(tag)):
        raise InvalidInputError("a tag's pattern has 1 to 128 letters, digits, _ . - and single *")
    first, slash, repository = (head + slash + last).partition("/")
    registry = first.lower()
    if not slash:
        if first != "**":
            raise InvalidInputError("it names no registry; write REGISTRY/REPOSITORY, or ** for everything")
        return first, tag if colon else None
    if not looks_like_registry(registry) and "*" not in registry:
        raise InvalidInputError(
            f"{first!r} is no registry's host name; write e.g. {DOCKER_HUB}/{text}, or **/{text} for all"
        )
    if not _REGISTRY.fullmatch(registry):
        raise InvalidInputError(f"{first!r} can match no registry's host name")
    if not _REPOSITORY.fullmatch(repository):
        raise InvalidInputError(
            f"{repository!r} can match no repository: lower-case letters, digits, . _ - and * between slashes"
        )
    if registry == f"index.{DOCKER_HUB}":
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in repository and "**" not in repository:
        repository = f"library/{repository}"
    return f"{registry}/{repository}", tag if colon else None
