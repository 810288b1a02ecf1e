"""What a signer is shown: all that is different, and nothing that is not."""

from typing import Any

from meshsat.fleet.differences import differences
from meshsat.fleet.document import DesiredState, state_of

A, B = {"reference": "r.example/a:1"}, {"reference": "r.example/b:1"}
DIGESTS = [f"sha256:{letter * 64}" for letter in "ab"]


def state(**words: Any) -> DesiredState:
    return state_of(words)


def shown(before: DesiredState, after: DesiredState) -> list[tuple[str, str]]:
    return [(one.kind, one.what) for one in differences(before, after)]


def test_nothing() -> None:
    one = state(images=[A, B], groups={"eu": {"sites": ["x"]}}, limits=[{"rate": 1}], signatures=[])
    assert differences(one, one) == []


def test_images() -> None:
    assert shown(state(images=[A]), state(images=[B])) == [
        ("added", "image r.example/b:1"),
        ("removed", "image r.example/a:1"),
    ]


def test_another_meaning_of_a_tag_is_a_change() -> None:
    before, after = (state(images=[{"reference": f"r.example/a:1@{digest}"}]) for digest in DIGESTS)
    (one,) = differences(before, after)
    assert (one.kind, one.what) == ("changed", "image r.example/a:1")
    assert one.fields == {"reference": tuple(f"r.example/a:1@{digest}" for digest in DIGESTS)}


def test_the_same_name_for_other_sites_is_another_image() -> None:
    canary = {**A, "sites": ["canary"], "copies": 1}
    assert shown(state(images=[A]), state(images=[canary, A])) == [
        ("added", "image r.example/a:1 (sites: canary)")
    ]


def test_groups_limits_and_policies() -> None:
    before = state(groups={"eu": {"sites": ["x"]}}, limits=[{"rate": 1}], pull_through={"allow": False})
    after = state(
        groups={"eu": {"sites": ["y"]}, "us": {"sites": ["z"]}},
        limits=[{"rate": 2}, {"groups": ["us"], "disk": 1}],
        signatures=[{"pattern": "**", "action": "accept"}],
    )
    assert shown(before, after) == [
        ("changed", "group eu"),
        ("added", "group us"),
        ("changed", "limits"),
        ("added", "limits (groups: us)"),
        ("removed", "pull_through"),
        ("changed", "signatures"),
    ]
    limits = next(one for one in differences(before, after) if one.what == "limits")
    assert limits.fields == {"rate": (1, 2)}


def test_the_order_of_images_is_told() -> None:
    assert shown(state(images=[A, B]), state(images=[B, A])) == [("changed", "order of the images")]
