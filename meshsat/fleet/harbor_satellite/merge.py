"""The groups of a satellite become one desired state.

Laws: pure, and the same whatever order the groups come in. An image that any group wants is wanted: it is not
lost because another group lets go of it, calls it deleted, or can't be read. Digests are taken as they are.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from meshsat.fleet.document import IMAGES_LIMIT, DesiredImage, DesiredState
from meshsat.fleet.harbor_satellite.shapes import GroupState, Place
from meshsat.oci.digest import Digest

UNTAGGED = "untagged-"
"""How the tag begins that an image without one is held under; the digest's hex follows."""
PROBLEMS_LIMIT = 20


@dataclass(frozen=True, slots=True)
class Merged:
    state: DesiredState
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Wanted:
    digest: Digest | None
    group: Place


def merge(registry: str, groups: Mapping[Place, GroupState]) -> Merged:
    """`registry` is where all the images are. Where groups disagree about a tag, the group whose name comes
    first counts, and within a group what is listed first."""
    wanted: dict[tuple[str, str], _Wanted] = {}
    problems: list[str] = []
    for group in sorted(groups):
        for repository, tag, digest in _live(groups[group]):
            known = wanted.get((repository, tag))
            if known is None or (known.digest is None and digest is not None):
                wanted[repository, tag] = _Wanted(digest, group)
            elif digest is not None and digest != known.digest:
                problems.append(
                    f"{repository}:{tag} is {known.digest} in {known.group.repository} and {digest} in "
                    f"{group.repository}: the first counts; have Ground Control say one thing"
                )
    names = sorted(wanted)
    if len(names) > IMAGES_LIMIT:
        problems.insert(
            0, f"{len(names)} images are wanted, of which the first {IMAGES_LIMIT} by name are held"
        )
    images = tuple(_image(registry, name, wanted[name].digest) for name in names[:IMAGES_LIMIT])
    more = len(problems) - PROBLEMS_LIMIT
    if more > 0:
        problems[PROBLEMS_LIMIT:] = [f"and {more} more such problems"]
    return Merged(DesiredState(images=images), tuple(problems))


def _live(group: GroupState) -> Iterable[tuple[str, str, Digest | None]]:
    """Repository, tag and digest of what the group wants."""
    for artifact in group.artifacts:
        if artifact.deleted:
            continue
        for tag in artifact.tags:
            yield artifact.repository, tag, artifact.digest
        if not artifact.tags and artifact.digest is not None:
            yield artifact.repository, UNTAGGED + artifact.digest.hex[:64], artifact.digest


def _image(registry: str, name: tuple[str, str], digest: Digest | None) -> DesiredImage:
    repository, tag = name
    pinned = f"@{digest}" if digest is not None else ""
    return DesiredImage(reference=f"{registry}/{repository}:{tag}{pinned}")
