import os
import time
from pathlib import Path

import pytest

from meshsat.errors import ConfigError
from meshsat.private_files import LEFT_AFTER, write_file


def test_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "data" / "inner" / "file"
    write_file(path, b"secret")
    assert path.read_bytes() == b"secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_write_that_fails_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "identity" / "file"
    write_file(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "identity" / "file"
    write_file(path, b"old")
    left, begun, foreign = (
        path.parent / name for name in (".file.a.unfinished", ".file.b.unfinished", ".file.swp")
    )
    for file in (left, begun, foreign):
        file.write_bytes(b"secret")
    for file in (left, foreign):
        os.utime(file, times=(time.time() - LEFT_AFTER - 1,) * 2)
    write_file(path, b"new")
    assert sorted(path.parent.iterdir()) == sorted([path, begun, foreign])


def test_a_killed_writer_leaves_what_the_next_one_knows_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "identity" / "[file]"
    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", _die)
        killed.setattr(Path, "unlink", lambda *_args, **_kwargs: None)
        with pytest.raises(ConfigError):
            write_file(path, b"secret")
    (left,) = path.parent.iterdir()
    os.utime(left, times=(0, 0))
    write_file(path, b"new")
    assert list(path.parent.iterdir()) == [path]


def _die(*_args: object) -> None:
    raise OSError(5, "killed")
