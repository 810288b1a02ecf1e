import errno
import os
from pathlib import Path
from typing import Any

import pytest

from meshsat.errors import InvalidInputError, StorageError
from meshsat.fleet.harbor_satellite.keeping import (
    DIRECTORY,
    FILE,
    FILE_LIMIT,
    Enlisted,
    Kept,
    KeptGroup,
    encode_kept,
    load,
    parse_kept_untrusted,
    save,
)
from meshsat.fleet.harbor_satellite.shapes import GroupState, SatelliteSettings, SatelliteState
from meshsat.oci.digest import Digest
from tests.unit.fleet.harbor_satellite.fakes import CONFIG, ROOT, group_place

DOCUMENT = b'{"group": "a"}'
KEPT = Kept(
    ROOT,
    Digest.of(b"root"),
    SatelliteState((group_place("a"), group_place("b")), CONFIG),
    {group_place("a"): KeptGroup(Digest.of(b"a"), DOCUMENT, GroupState(()), 7.0)},
    Digest.of(b"config"),
    SatelliteSettings(30.0, None, ("zot_config",)),
    Enlisted(ROOT, "harbor.example", "ab" * 32, 5.0),
)


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    assert load(tmp_path) == Kept()
    save(tmp_path, KEPT)
    assert load(tmp_path) == KEPT
    assert (tmp_path / DIRECTORY / FILE).stat().st_mode & 0o777 == 0o600
    save(tmp_path, Kept())
    assert load(tmp_path) == Kept()
    assert [path.name for path in (tmp_path / DIRECTORY).iterdir()] == [FILE]


def test_of_another_satellite_nothing_is_kept_but_who_we_are() -> None:
    assert KEPT.of(ROOT) is KEPT
    other = group_place("x")
    assert KEPT.of(other) == Kept(place=other, enlisted=KEPT.enlisted)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, KEPT)

    def full(_fd: int, _data: Any) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError):
        save(tmp_path, Kept())
    monkeypatch.undo()
    assert load(tmp_path) == KEPT
    assert len(list((tmp_path / DIRECTORY).iterdir())) == 1


@pytest.mark.parametrize("instruction", ["write", "fsync", "rename"])
def test_killed_at_any_instruction_the_old_or_the_new_is_there(
    instruction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, KEPT)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path if instruction == "rename" else os, instruction, killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, Kept())
    monkeypatch.undo()
    assert load(tmp_path) == KEPT
    save(tmp_path, Kept())
    assert load(tmp_path) == Kept()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        b'{"format": 2}',
        b'{"format": 1, "groups": 7}',
        b'{"format": 1, "groups": [7]}',
        b'{"format": 1, "root": {"digest": "x"}}',
        b'{"format": 1, "root": 7}',
        b'{"format": 1, "place": "ftp://x"}',
        b'{"format": 1, "enlisted": {}}',
        b" " * (FILE_LIMIT + 1),
        encode_kept(KEPT)[:-5],
    ],
)
def test_what_is_not_ours_is_refused(raw: bytes, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError):
        parse_kept_untrusted(raw)
    (tmp_path / DIRECTORY).mkdir()
    (tmp_path / DIRECTORY / FILE).write_bytes(raw)
    with pytest.raises(InvalidInputError):
        load(tmp_path)
