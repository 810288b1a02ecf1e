import io
import json
import sys
from pathlib import Path

import pytest

from meshsat.cli import node_place
from tests.bundle_place import APP, MemoryPlace, everything, read
from tests.images import build_image
from tests.unit.cli.conftest import Meshsat

IMAGE = build_image([b"layer"], ("linux/amd64", "linux/arm64"), own_layers={"linux/arm64": [b"arm"]})


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> MemoryPlace:
    place = MemoryPlace()
    place.hold(IMAGE, APP, 1000.0)
    monkeypatch.setattr(node_place, "NodePlace", lambda _data_dir: place)
    return place


@pytest.mark.parametrize("name", ["a.tar", "a.tar.zst", "stick"])
def test_into_whatever_its_name_says(meshsat: Meshsat, here: MemoryPlace, tmp_path: Path, name: str) -> None:
    ended = meshsat("export", APP, "-o", tmp_path / name)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{APP}  {IMAGE.root}\n{tmp_path / name}: {size()}, {len(IMAGE.blobs)} blobs\n"
    there = MemoryPlace()
    read(there, tmp_path / name)
    assert everything(there) == everything(here)
    magic = (tmp_path / name).read_bytes()[:4] if name != "stick" else b""
    assert (magic == b"\x28\xb5\x2f\xfd") == name.endswith("zst")


def size() -> str:
    from meshsat.cli.units import size as told

    return told(IMAGE.size)


def test_to_stdout(
    meshsat: Meshsat, here: MemoryPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "out").open("wb") as file:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file))
        ended = meshsat("export", APP, "-o", "-", "--compression", "zstd")
        sys.stdout.flush()
    assert ended.code == 0
    assert IMAGE.root in ended.err
    there = MemoryPlace()
    read(there, tmp_path / "out")
    assert everything(there) == everything(here)


def test_json(meshsat: Meshsat, here: MemoryPlace, tmp_path: Path) -> None:
    ended = meshsat("export", APP, "-o", tmp_path / "a.tar", "--platform", "linux/amd64", "--json")
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert {line["event"] for line in lines[:-1]} == {"progress"}
    last = lines[-1]
    assert (last["event"], last["images"][0]["digest"], last["blobs"]) == ("done", IMAGE.root, 2)
    assert len(last["left_out"]) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("REF!", "-o", "x"), "reference"),
        ((APP, "-o", "x", "--platform", "linux"), "platform"),
        ((APP, "-o", "x", "--since", "UPPER/x"), "reference"),
        ((APP, "-o", "x.tar", "--compression", "xz"), "zstd or none"),
        ((APP, "-o", "x/", "--compression", "zstd"), "is a directory"),
        ((APP, "-o", "-", "--json"), "stdout is taken"),
        ((APP,), "--output"),
    ],
)
def test_misuse_is_told_before_anything_is_asked(
    meshsat: Meshsat, here: MemoryPlace, arguments: tuple[str, ...], told: str
) -> None:
    ended = meshsat("export", *arguments)
    assert ended.code == 2
    assert told in ended.err


def test_what_is_not_here_writes_nothing(meshsat: Meshsat, here: MemoryPlace, tmp_path: Path) -> None:
    ended = meshsat("export", "reg.test/other:1", "-o", tmp_path / "a.tar")
    assert ended.code == 1
    assert "meshsat pull reg.test/other:1" in ended.err
    assert not list(tmp_path.iterdir())
