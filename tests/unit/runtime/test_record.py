import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from meshsat.errors import InvalidInputError, StorageError
from meshsat.runtime.disk import Disk
from meshsat.runtime.record import (
    INSTALLED,
    RECORD_LIMIT,
    Entry,
    Record,
    Records,
    decode_record_untrusted,
    encode_record,
    sum_of,
)
from tests.unit.runtime.trees import OTHER, STATE

SUM = sum_of(b"x")
RECORD = Record(
    INSTALLED,
    ("podman", "cri-o"),
    OTHER,
    (Entry("/etc/f", None, SUM, ((SUM, None),)),),
    ("/etc/d",),
    ("cri-o",),
    ("/etc/f",),
    1234.5,
)


def test_a_record_is_read_back() -> None:
    assert decode_record_untrusted(encode_record(RECORD)) == RECORD


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"format": None}, {"phase": "lost"}, {"since": True}, {"runtimes": "x"}, {"entries": {}},
        {"mirror": None}, {"directories": ["relative"]}, {"directories": ["/a/../b"]},
        {"entries": [{"path": "/f", "without": "xyz", "ours": None, "earlier": []}]},
        {"entries": [{"path": "/f\0", "without": None, "ours": None, "earlier": []}]},
        {"entries": [{"path": "/f", "without": None, "ours": None, "earlier": [[None]]}]},
    ],
)  # fmt: skip
def test_a_damaged_record_is_refused(change: dict[str, object]) -> None:
    found = json.loads(encode_record(RECORD))
    with pytest.raises(InvalidInputError):
        decode_record_untrusted(json.dumps(found | change).encode())
    for data in (b"", b"[]", b"{", b"\xff", b" " * (RECORD_LIMIT + 1)):
        with pytest.raises(InvalidInputError):
            decode_record_untrusted(data)


def test_records_and_contents_are_kept_for_this_user_alone(tmp_path: Path) -> None:
    records = Records(Disk(tmp_path), STATE)
    with records.locked():
        name = records.keep("docker", b"old")
        assert records.keep("docker", b"old") == name
        assert records.keep("docker", None) is None
        records.save("docker", replace(RECORD, entries=(Entry("/etc/f", name, SUM),)))
        assert records.load("docker") is not None
        assert records.content("docker", name) == b"old"
        assert records.content("docker", None) is None
        for path in (tmp_path / STATE[1:]).rglob("*"):
            assert path.stat().st_mode & 0o077 == 0
        records.keep("docker", b"unnamed")
        records.forget_content("docker", records.load("docker"))
        assert len(list((tmp_path / STATE[1:] / "docker/content").iterdir())) == 1
        records.drop("docker")
        assert records.load("docker") is None
        assert not (tmp_path / STATE[1:] / "docker").exists()


def test_damage_is_told_with_what_to_do(tmp_path: Path) -> None:
    records = Records(Disk(tmp_path), STATE)
    with records.locked():
        name = records.keep("docker", b"old")
        (tmp_path / STATE[1:] / f"docker/content/{name}").write_bytes(b"other")
        with pytest.raises(StorageError, match="missing or damaged"):
            records.content("docker", name)
        (tmp_path / STATE[1:] / "docker/record.json").write_bytes(b"{")
        with pytest.raises(StorageError, match="put it back by hand"):
            records.load("docker")


def test_one_at_a_time(tmp_path: Path) -> None:
    with (
        Records(Disk(tmp_path), STATE).locked(),
        pytest.raises(StorageError, match="another meshsat runtime"),
        Records(Disk(tmp_path), STATE).locked(),
    ):
        pass


def test_a_directory_that_others_can_write_to_is_not_trusted(tmp_path: Path) -> None:
    directory = tmp_path / STATE[1:]
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    with pytest.raises(StorageError, match="nobody else can write"), Records(Disk(tmp_path), STATE).locked():
        pass
    directory.rmdir()
    directory.symlink_to("/etc")
    with pytest.raises(StorageError, match="nobody else can write"), Records(Disk(tmp_path), STATE).locked():
        pass
    if os.geteuid() == 0:
        directory.unlink()
        directory.mkdir()
        os.chown(directory, 12345, 0)
        with (
            pytest.raises(StorageError, match="nobody else can write"),
            Records(Disk(tmp_path), STATE).locked(),
        ):
            pass
