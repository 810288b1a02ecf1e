from pathlib import Path

import pytest
from trio.testing import MockClock

from meshsat.errors import StorageError
from meshsat.fleet.document import DesiredImage, DesiredState
from meshsat.fleet.harbor_satellite import weighing as module
from meshsat.fleet.harbor_satellite.weighing import Weighing
from tests.images import build_image
from tests.unit.fleet.harbor_satellite.fakes import INLINE, FakeArtifacts

ONE = build_image([b"one" * 100])
MULTI = build_image([b"multi" * 100], ["linux/amd64", "linux/arm64"])


def wanting(*references: str) -> DesiredState:
    return DesiredState(images=tuple(DesiredImage(reference=reference) for reference in references))


class Bench:
    def __init__(self, directory: Path) -> None:
        self.artifacts = FakeArtifacts()
        self.artifacts.images = {"h.example/pos:42": ONE, "h.example/app:1": MULTI}
        self.weighing = Weighing(
            self.artifacts,
            directory,
            nodes=lambda: 3,
            spent=lambda: 10 * len(self.artifacts.asked),
            unix=lambda: 0.0,
            threads=INLINE,
        )


PINNED = (f"h.example/pos:42@{ONE.root}", f"h.example/app:1@{MULTI.root}")


async def test_manifests_alone_are_asked_for_and_once(autojump_clock: MockClock, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.weighing.count(wanting(*PINNED))
    report = bench.weighing.report(None)
    assert report.once == ONE.size + MULTI.size
    assert (report.each, report.own, report.nodes) == (3 * report.once, 40, 3)
    assert len(bench.artifacts.asked) == 4  # one image, an index, its two children
    await bench.weighing.count(wanting(*PINNED))
    assert len(bench.artifacts.asked) == 4
    again = Bench(tmp_path)
    await again.weighing.recall()
    await again.weighing.count(wanting(*PINNED))
    assert again.artifacts.asked == []
    assert again.weighing.report(None) == report


async def test_a_tag_without_a_digest_is_looked_at_each_time(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    bench = Bench(tmp_path)
    await bench.weighing.count(wanting("h.example/pos:42"))
    bench.artifacts.images["h.example/pos:42"] = moved = build_image([b"moved" * 100])
    await bench.weighing.count(wanting("h.example/pos:42"))
    assert bench.weighing.report(None).once == ONE.size + moved.size


async def test_one_that_cannot_be_weighed_is_told_and_holds_back_no_other(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    bench = Bench(tmp_path)
    del bench.artifacts.images["h.example/pos:42"]
    await bench.weighing.count(wanting(*PINNED))
    report = bench.weighing.report(None)
    assert report.once == MULTI.size
    (unknown,) = report.unknown
    assert unknown.startswith("h.example/pos:42: ")
    bench.artifacts.images["h.example/pos:42"] = ONE
    await bench.weighing.count(wanting(*PINNED))
    assert bench.weighing.report(None).once == MULTI.size + ONE.size
    assert bench.weighing.report(None).unknown == ()


async def test_a_full_disk_and_too_many_blobs_are_told(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    bench = Bench(tmp_path)
    monkeypatch.setattr(module, "keep_file", full)
    await bench.weighing.count(wanting(*PINNED))
    assert "the disk is full" in str(bench.weighing.trouble)
    assert bench.weighing.report(None).once > 0
    monkeypatch.undo()
    await bench.weighing.count(wanting(*PINNED))
    assert bench.weighing.trouble is None
    monkeypatch.setattr(module, "BLOBS_LIMIT", 2)
    await bench.weighing.count(wanting(*PINNED))
    assert "more than 2 blobs" in str(bench.weighing.trouble)


async def test_an_index_without_end_is_refused(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    monkeypatch.setattr(module, "MANIFESTS_LIMIT", 1)
    await bench.weighing.count(wanting(*PINNED))
    assert "more than 1 manifests" in bench.weighing.report(None).unknown[0]


async def test_counts_that_cannot_be_read_are_as_none(autojump_clock: MockClock, tmp_path: Path) -> None:
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet" / "shadow.json").write_bytes(b"\0")
    bench = Bench(tmp_path)
    await bench.weighing.recall()
    assert bench.weighing.report(None).once == 0
