import errno
import os
from pathlib import Path

import pytest

from meshsat.errors import ConfigError
from meshsat.mesh.trace_file import BUFFER, STOPPED, TraceFile
from meshsat.protocol.events import TimerExpired
from meshsat.protocol.machine import Settings
from meshsat.protocol.trace import Ended, Happened, Started, decode_untrusted
from tests.brain import peer

STARTED = Started("1.2.3", b"seed", Settings(peer("me"), "me", uplink=True))
HAPPENED = Happened(1.0, TimerExpired(), b"\0" * 6)
ROOM = 1 << 20


def test_what_is_told_is_in_the_file_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    file = TraceFile(path, ROOM)
    assert file.tell(STARTED)
    assert file.tell(HAPPENED)
    file.close()
    file.close()
    assert list(decode_untrusted(path.read_bytes())) == [STARTED, HAPPENED, STOPPED]
    assert not file.tell(HAPPENED)


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    TraceFile(path, ROOM).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_little_is_written_at_a_time_and_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    file = TraceFile(path, ROOM)
    file.tell(STARTED)
    assert path.stat().st_size == 0
    told = 0
    while not path.stat().st_size:
        file.tell(HAPPENED)
        told += 1
    assert path.stat().st_size >= BUFFER
    file.close()
    assert len(list(decode_untrusted(path.read_bytes()))) == told + 2


def test_it_never_grows_over_its_limit_and_says_why_it_ends(tmp_path: Path) -> None:
    path, limit = tmp_path / "trace", 65536
    file = TraceFile(path, limit)
    file.tell(STARTED)
    while file.tell(HAPPENED):
        pass
    assert limit - 200 < path.stat().st_size <= limit
    *_, last = decode_untrusted(path.read_bytes())
    assert isinstance(last, Ended)
    assert "limit of 65536 bytes" in last.reason
    file.close()
    assert path.stat().st_size <= limit


def test_a_file_that_is_there_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("precious")
    with pytest.raises(ConfigError, match=r"record\.file: .*is there already"):
        TraceFile(path, ROOM)
    assert path.read_text() == "precious"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        TraceFile(link, ROOM)
    with pytest.raises(ConfigError, match="No such file or directory"):
        TraceFile(tmp_path / "nowhere" / "trace", ROOM)


def test_a_full_disk_ends_the_recording_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for tells in (1, 2 * BUFFER // 20):
        file = TraceFile(tmp_path / f"trace {tells}", 1 << 24)
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            for _ in range(tells):
                file.tell(HAPPENED)
            file.close()
            assert not file.tell(HAPPENED)
