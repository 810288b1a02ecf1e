"""Laws of merging groups: their order is nothing, and no image is lost that any of them wants."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from meshsat.fleet.harbor_satellite.merge import merge
from meshsat.fleet.harbor_satellite.shapes import Artifact, GroupState, Place
from meshsat.oci.digest import Digest

HARBOR = "harbor.example"
ARTIFACT = st.builds(
    Artifact,
    st.sampled_from(["a/app", "b/app", "a/b/app"]),
    st.lists(st.sampled_from(["v1", "v2", "latest"]), max_size=3, unique=True).map(tuple),
    st.sampled_from([Digest.of(b"1"), Digest.of(b"2"), Digest.of(b"3")]),
    st.booleans(),
)
GROUPS = st.dictionaries(
    st.sampled_from([Place(HARBOR, f"satellite/group-state/{name}/state") for name in "abcdef"]),
    st.lists(ARTIFACT, max_size=6).map(lambda listed: GroupState(tuple(listed))),
    max_size=6,
)


@settings(max_examples=200)
@given(GROUPS, st.randoms(use_true_random=False))
def test_the_order_of_groups_means_nothing(groups: dict[Place, GroupState], rng: random.Random) -> None:
    shuffled = list(groups.items())
    rng.shuffle(shuffled)
    assert merge(HARBOR, dict(shuffled)) == merge(HARBOR, groups)


@settings(max_examples=200)
@given(GROUPS)
def test_no_image_is_lost_and_none_is_made_up(groups: dict[Place, GroupState]) -> None:
    held = {(image.name, image.parsed.digest) for image in merge(HARBOR, groups).state.images}
    listed = [(artifact, group) for group in groups.values() for artifact in group.artifacts]
    live = {
        (f"{HARBOR}/{one.repository}:{tag}", one.digest)
        for one, _ in listed
        if not one.deleted
        for tag in one.tags or (f"untagged-{one.digest.hex if one.digest else ''}",)
    }
    assert {name for name, _ in held} == {name for name, _ in live}
    assert held <= live


@settings(max_examples=200)
@given(GROUPS)
def test_dropping_a_group_takes_away_only_what_it_alone_wanted(groups: dict[Place, GroupState]) -> None:
    for dropped, group in groups.items():
        rest = {place: group for place, group in groups.items() if place != dropped}
        before, after = merge(HARBOR, groups).state, merge(HARBOR, rest).state
        alone = {image.name for image in before.images} - {image.name for image in after.images}
        assert {image.name for image in after.images} <= {image.name for image in before.images}
        wanted = merge(HARBOR, {dropped: group}).state
        assert alone <= {image.name for image in wanted.images}
