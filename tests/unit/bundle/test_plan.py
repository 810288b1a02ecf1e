import json

import pytest

from meshsat.bundle import plan as module
from meshsat.bundle.plan import Plan
from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from tests.bundle_place import layout_files
from tests.images import build_image

IMAGE = build_image([b"layer"], ("linux/amd64", "linux/arm64"))
FILES = layout_files(IMAGE)


def feed(plan: Plan, *names: str) -> list[str]:
    """One pass over these files; those that were read."""
    kept = []
    for name in names or FILES:
        plan.saw(name, len(FILES[name]))
        if plan.keeps(name, len(FILES[name])):
            plan.keep(name, FILES[name])
            kept.append(name)
    return kept


def test_each_pass_gets_what_the_one_before_made_known() -> None:
    plan = Plan()
    assert feed(plan) == ["index.json"]
    while not plan.ready:
        assert feed(plan)
    closure = plan.closure(Digest.parse_untrusted(IMAGE.root))
    assert [str(manifest.digest) for manifest in closure.manifests][-1] == IMAGE.root
    assert set(map(str, closure.blobs)) == IMAGE.blobs.keys()
    assert not closure.absent


def test_in_our_order_one_pass_is_enough() -> None:
    plan = Plan()
    manifests = [f"blobs/{text.replace(':', '/')}" for text in [*IMAGE.manifests][::-1]]
    assert feed(plan, "index.json", *manifests) == ["index.json", *manifests]
    assert plan.ready


def test_a_platform_that_is_not_there_is_left_out_and_all_of_them_are_a_fault() -> None:
    plan = Plan()
    first, second, root = IMAGE.manifests
    feed(plan, "index.json")
    feed(plan, f"blobs/{root.replace(':', '/')}")
    feed(plan, f"blobs/{first.replace(':', '/')}")
    assert not plan.ready
    plan.stop_waiting({})
    assert plan.ready
    assert {str(one) for one in plan.closure(Digest.parse_untrusted(root)).absent} == {second}
    alone = Plan()
    feed(alone, "index.json")
    feed(alone, f"blobs/{root.replace(':', '/')}")
    alone.stop_waiting()
    with pytest.raises(InvalidInputError, match="none of the images"):
        alone.closure(Digest.parse_untrusted(root))


@pytest.mark.parametrize("change", [b"x", b" ", b"{"])
def test_a_damaged_manifest_is_its_images_fault(change: bytes) -> None:
    plan = Plan()
    feed(plan, "index.json")
    name = f"blobs/{IMAGE.root.replace(':', '/')}"
    raw = FILES[name][:-1] + change if len(change) else b""
    assert plan.keeps(name, len(raw))
    plan.keep(name, raw)
    assert plan.ready
    with pytest.raises(InvalidInputError, match="damaged"):
        plan.closure(Digest.parse_untrusted(IMAGE.root))


def test_one_of_the_wrong_size_is_not_even_read() -> None:
    plan = Plan()
    feed(plan, "index.json")
    name = f"blobs/{IMAGE.root.replace(':', '/')}"
    assert not plan.keeps(name, 2**40)
    with pytest.raises(InvalidInputError, match="damaged: it has"):
        plan.closure(Digest.parse_untrusted(IMAGE.root))


def test_too_much_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("index.json", "manifest.json"):
        with pytest.raises(InvalidInputError, match="are not read"):
            Plan().keeps(name, 2**30)
    monkeypatch.setattr(module, "MEMORY_LIMIT", len(FILES["index.json"]) + 10)
    plan = Plan()
    feed(plan, "index.json")
    with pytest.raises(InvalidInputError, match="together"):
        feed(plan)


def test_files_that_nothing_refers_to_are_nothing() -> None:
    plan = Plan()
    feed(plan, "index.json")
    for name in ("etc/passwd", "../index.json", "blobs/sha256/" + "0" * 64, "repositories", "version"):
        assert not plan.keeps(name, 10)
    assert plan.blob("../../x") is None


def test_where_both_are_there_the_layout_counts() -> None:
    plan = Plan()
    plan.saw("index.json", 5)
    assert not plan.keeps("manifest.json", 10)


def test_manifest_json_of_a_directory_is_the_root_itself() -> None:
    image = build_image([b"layer"])
    plan = Plan()
    assert plan.keeps("manifest.json", len(image.raw))
    plan.keep("manifest.json", image.raw)
    assert plan.ready
    assert plan.images is not None
    assert [str(entry.root.digest) for entry in plan.images] == [image.root]
    assert plan.blob(digest := next(iter(image.blobs))[7:]) == Digest("sha256", digest)
    for raw in (b"{}", b"x", json.dumps({"schemaVersion": 1}).encode()):
        with pytest.raises(InvalidInputError):
            Plan().keep("manifest.json", raw)
