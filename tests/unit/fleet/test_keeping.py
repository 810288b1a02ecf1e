"""What is kept survives a kill at any instant: the old is there or the new, and never a lower version than before."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meshsat.errors import InvalidInputError, StorageError
from meshsat.fleet.keeping import FILE_LIMIT, TRUSTED, Keeping, Kept, encode_kept, parse_kept_untrusted
from meshsat.oci.digest import Digest
from meshsat.store import disk
from tests.authors import Signers
from tests.states import Holder, body

S = Signers()
BODIES = {version: body(f"r.example/a:{version}") for version in range(1, 9)}


class KilledError(BaseException):
    """The process is gone."""


def write(keeping: Keeping, version: int) -> None:
    """As `States` does when a head comes, and when it is in force."""
    envelopes = [S.first(), *(S.head(one, body=BODIES[one]) for one in range(1, version + 1))]
    keeping.save(envelopes, version - 1 if version > 1 else None)
    keeping.put_body(Digest.of(BODIES[version]), BODIES[version])
    keeping.save(envelopes, version)
    keeping.keep_only([Digest.of(BODIES[one]) for one in range(1, version + 1)])


OPERATIONS = ("write_file", "rename", "sync_directory", "remove", "make_directories")


@pytest.mark.parametrize("half", [False, True], ids=["before", "half-way"])
@pytest.mark.parametrize("at", range(26))
def test_killed_at_any_operation_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, half: bool
) -> None:
    keeping = Keeping(tmp_path / "fleet")
    write(keeping, 1)
    left = at

    def deadly(name: str) -> None:
        real = getattr(disk, name)

        def operation(*args: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                if half and name == "write_file":
                    path, data = args[0], args[1]
                    assert isinstance(path, Path)
                    assert isinstance(data, bytes)
                    path.write_bytes(data[: len(data) // 2])
                raise KilledError
            return real(*args)

        monkeypatch.setattr(disk, name, operation)

    for name in OPERATIONS:
        deadly(name)
    try:
        write(keeping, 2)
    except KilledError:
        killed = True
    else:
        killed = False
    monkeypatch.undo()
    holder = Holder(tmp_path / "fleet", S)
    assert holder.in_force in ({1, 2} if killed else {2})
    assert holder.states.next_version in {2, 3}
    write(Keeping(tmp_path / "fleet"), 3)  # and it goes on
    assert Holder(tmp_path / "fleet", S).in_force == 3


def test_the_kills_above_reach_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would miss the last operations."""
    keeping = Keeping(tmp_path / "fleet")
    write(keeping, 1)
    count = 0

    def counted(name: str) -> None:
        real = getattr(disk, name)

        def operation(*args: object) -> object:
            nonlocal count
            count += 1
            return real(*args)

        monkeypatch.setattr(disk, name, operation)

    for name in OPERATIONS:
        counted(name)
    write(keeping, 2)
    assert 15 < count < 26


WRITER = """
import sys
from pathlib import Path
from meshsat.fleet.keeping import Keeping
from tests.unit.fleet.test_keeping import write
keeping = Keeping(Path(sys.argv[1]))
version = 1
while True:
    write(keeping, version)
    print(version, flush=True)
    version = min(version + 1, 8)
"""


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 2, 3, 5, 8, 30])
def test_killed_by_the_system(tmp_path: Path, lines: int) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "fleet")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ.copy()) as child:
        assert child.stdout is not None
        seen = [int(child.stdout.readline()) for _ in range(lines)][-1]
        child.send_signal(signal.SIGKILL)
    holder = Holder(tmp_path / "fleet", S)
    assert holder.in_force is not None
    assert holder.in_force >= seen


def test_every_file_is_the_nodes_own(tmp_path: Path) -> None:
    write(Keeping(tmp_path / "fleet"), 1)
    files = [path for path in (tmp_path / "fleet").rglob("*") if path.is_file()]
    assert len(files) == 3
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "fleet").stat().st_mode & 0o777 == 0o700


def test_bodies_that_nobody_needs_are_removed(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path / "fleet")
    keeping.keep_only([])
    for one in (b"a", b"b"):
        keeping.put_body(Digest.of(one), one)
    keeping.keep_only([Digest.of(b"b")])
    assert keeping.body(Digest.of(b"a")) is None
    assert keeping.body(Digest.of(b"b")) == b"b"


def test_a_file_that_is_none_of_ours_is_not_read_whole(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path / "fleet")
    keeping.put_body(Digest.of(b"a"), b"a")
    with (tmp_path / "fleet" / "bodies" / Digest.of(b"a").hex).open("wb") as file:
        file.truncate(FILE_LIMIT + 1)
    with pytest.raises(StorageError, match="longer than"):
        keeping.body(Digest.of(b"a"))


def test_a_disk_that_does_not_take_it_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = Keeping(tmp_path / "fleet")
    write(keeping, 1)
    before = {name: (tmp_path / "fleet" / name).read_bytes() for name in TRUSTED}

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:10])
        raise StorageError("no room")

    monkeypatch.setattr(disk, "write_file", full)
    with pytest.raises(StorageError):
        write(keeping, 2)
    assert {name: (tmp_path / "fleet" / name).read_bytes() for name in TRUSTED} == before
    assert not list((tmp_path / "fleet").glob(".*"))


def test_what_is_written_is_read() -> None:
    kept = Kept(7, (S.first(), S.head(3)), 1)
    assert parse_kept_untrusted(encode_kept(kept)) == kept


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{}", b'{"serial": 1, "accepted": 1}', b'{"serial": 1, "accepted": [], "in_force": 1}'],
)
def test_what_is_no_kept_state_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse_kept_untrusted(raw)
