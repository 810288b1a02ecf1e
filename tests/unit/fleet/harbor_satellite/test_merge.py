from meshsat.fleet.document import IMAGES_LIMIT
from meshsat.fleet.harbor_satellite.merge import PROBLEMS_LIMIT, UNTAGGED, merge
from meshsat.fleet.harbor_satellite.shapes import Artifact, GroupState
from meshsat.oci.digest import Digest
from tests.unit.fleet.harbor_satellite.fakes import HARBOR, group_place

ONE, OTHER = Digest.of(b"one"), Digest.of(b"other")


def references(**groups: tuple[Artifact, ...]) -> list[str]:
    merged = merge(HARBOR, {group_place(name): GroupState(listed) for name, listed in groups.items()})
    return [image.reference.removeprefix(f"{HARBOR}/") for image in merged.state.images]


def test_an_image_of_two_groups_is_one_and_stays_while_one_of_them_wants_it() -> None:
    image = Artifact("library/pos", ("42",), ONE)
    assert references(a=(image,), b=(image,)) == [f"library/pos:42@{ONE}"]
    assert references(a=(), b=(image,)) == [f"library/pos:42@{ONE}"]
    gone = Artifact("library/pos", ("42",), ONE, deleted=True)
    assert references(a=(gone,), b=(image,)) == [f"library/pos:42@{ONE}"]
    assert references(a=(gone,)) == []
    assert references(a=(gone,), b=()) == references() == []


def test_the_same_name_and_tag_in_two_repositories_are_two_images() -> None:
    assert references(a=(Artifact("a/app", ("v1",), ONE), Artifact("b/app", ("v1",), OTHER))) == [
        f"a/app:v1@{ONE}",
        f"b/app:v1@{OTHER}",
    ]


def test_every_tag_of_an_artifact_is_an_image_and_one_without_any_has_a_tag_of_its_digest() -> None:
    listed = (Artifact("a/app", ("v1", "v2"), ONE), Artifact("a/app", (), OTHER))
    assert references(a=listed) == [
        f"a/app:{UNTAGGED}{OTHER.hex}@{OTHER}",
        f"a/app:v1@{ONE}",
        f"a/app:v2@{ONE}",
    ]
    long = Digest.of(b"x", "sha512")
    assert references(a=(Artifact("a/app", (), long),)) == [f"a/app:{UNTAGGED}{long.hex[:64]}@{long}"]


def test_a_tag_without_a_digest_is_followed_unless_another_group_gives_one() -> None:
    follow, pinned = Artifact("a/app", ("v1",)), Artifact("a/app", ("v1",), ONE)
    assert references(a=(follow,)) == ["a/app:v1"]
    assert references(a=(follow,), b=(pinned,)) == references(a=(pinned,), b=(follow,)) == [f"a/app:v1@{ONE}"]


def test_a_tag_that_moved_within_a_group_is_its_live_meaning() -> None:
    old, new = Artifact("a/app", ("v1",), ONE, deleted=True), Artifact("a/app", ("v1",), OTHER)
    assert references(a=(old, new)) == references(a=(new, old)) == [f"a/app:v1@{OTHER}"]


def test_groups_that_disagree_are_told_of_and_the_first_by_name_counts() -> None:
    one, other = Artifact("a/app", ("v1",), ONE), Artifact("a/app", ("v1",), OTHER)
    for groups in ({"a": (one,), "b": (other,)}, {"b": (other,), "a": (one,)}):
        merged = merge(HARBOR, {group_place(name): GroupState(listed) for name, listed in groups.items()})
        assert [image.reference for image in merged.state.images] == [f"{HARBOR}/a/app:v1@{ONE}"]
        (problem,) = merged.problems
        assert "group-state/b" in problem
        assert str(OTHER) in problem


def test_what_is_told_and_held_is_bounded() -> None:
    many = tuple(Artifact(f"a/app{number}", ("v1",), ONE) for number in range(PROBLEMS_LIMIT + 5))
    moved = tuple(Artifact(f"a/app{number}", ("v1",), OTHER) for number in range(PROBLEMS_LIMIT + 5))
    merged = merge(HARBOR, {group_place("a"): GroupState(many), group_place("b"): GroupState(moved)})
    assert len(merged.problems) == PROBLEMS_LIMIT + 1
    listed = tuple(Artifact(f"a/app{number:05}", ("v1",), ONE) for number in range(IMAGES_LIMIT))
    extra = GroupState((Artifact("z/last", ("v1",), ONE),))
    merged = merge(HARBOR, {group_place("a"): GroupState(listed), group_place("b"): extra})
    assert len(merged.state.images) == IMAGES_LIMIT
    assert "10001 images" in merged.problems[0]
