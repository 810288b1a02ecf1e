import io
import json
import sys
from pathlib import Path

import pytest

from meshsat.cli import node_place
from tests.bundle_place import APP, MemoryPlace, as_tar, layout_files, write
from tests.images import build_image
from tests.unit.cli.conftest import Meshsat

IMAGE = build_image([b"layer"])


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> MemoryPlace:
    place = MemoryPlace()
    monkeypatch.setattr(node_place, "NodePlace", lambda _data_dir: place)
    return place


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    here = MemoryPlace()
    here.hold(IMAGE, APP, 1000.0)
    return write(here, tmp_path / "a.tar", APP)


def test_each_image_is_a_line(meshsat: Meshsat, there: MemoryPlace, bundle: Path) -> None:
    ended = meshsat("import", bundle)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"{APP}  {IMAGE.root}  ")
    assert list(there.named) == [APP]


def test_from_stdin_under_another_name(
    meshsat: Meshsat, there: MemoryPlace, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bundle.read_bytes())))
    assert meshsat("import", "-", "--as", "reg.test/b:2").code == 0
    assert list(there.named) == ["reg.test/b:2"]


def test_json(meshsat: Meshsat, there: MemoryPlace, bundle: Path) -> None:
    lines = [json.loads(line) for line in meshsat("import", bundle, "--json").out.splitlines()]
    assert [line["event"] for line in lines if line["event"] != "progress"] == ["image", "done"]
    assert lines[-1] == {"event": "done", "images": 1, "failed": 0, "message": None}
    assert lines[-2]["reference"] == APP


def test_an_image_that_can_not_be_imported(meshsat: Meshsat, there: MemoryPlace, tmp_path: Path) -> None:
    files = layout_files(IMAGE)
    del files[next(name for name in files if files[name] == b"layer")]
    path = as_tar(tmp_path / "a.tar", files)
    ended = meshsat("import", path)
    assert (ended.code, ended.out) == (1, "")
    assert f"import of {APP} from {path} failed: not in the archive" in ended.err
    lines = [json.loads(line) for line in meshsat("import", path, "--json").out.splitlines()]
    assert lines[-1] == {
        "event": "error", "images": 0, "failed": 1, "message": "1 of 1 could not be imported",
    }  # fmt: skip
    assert [line["event"] for line in lines if line["event"] != "progress"] == ["failed", "error"]


def test_what_is_no_bundle(meshsat: Meshsat, there: MemoryPlace, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * 1000)
    ended = meshsat("import", tmp_path / "x", "--json")
    assert ended.code == 2
    assert json.loads(ended.out.splitlines()[-1])["event"] == "error"
    assert "not a sound tar archive" in ended.err
    assert meshsat("import", tmp_path / "nothing").code == 1
    assert meshsat("import", tmp_path, "--as", "UPPER/x").code == 2
