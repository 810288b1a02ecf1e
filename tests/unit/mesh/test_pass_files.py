import json
import stat
from pathlib import Path

import cbor2
import pytest

from meshsat.mesh.pass_files import (
    CLOCK,
    REVOKED,
    DamagedError,
    is_revoked,
    read_floors_untrusted,
    read_revoked_untrusted,
    write_floors,
    write_revoked,
)
from meshsat.trust.clock import Floors
from meshsat.trust.passes import DAY
from meshsat.trust.revocations import Revocation, revoke
from tests.fleet import Fleet

NOW = 1_800_000_000.0
FLEET = Fleet(now=NOW)


def taken_back(who: str = "till") -> Revocation:
    member = FLEET.member(who)
    return revoke(
        FLEET.root, FLEET.root.certificate, peer=member.key.peer_id, site="hq", at=NOW, until=NOW + DAY
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    directory = tmp_path / "identity"
    assert read_revoked_untrusted(directory / REVOKED) == []
    assert read_floors_untrusted(directory / CLOCK) == Floors()
    records = [taken_back(), taken_back()]
    write_revoked(directory / REVOKED, records)
    write_floors(directory / CLOCK, Floors(NOW, NOW + 5))
    assert read_revoked_untrusted(directory / REVOKED) == [one.sealed for one in records]
    assert read_floors_untrusted(directory / CLOCK) == Floors(NOW, NOW + 5)
    for name in (REVOKED, CLOCK):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600


@pytest.mark.parametrize("data", [b"", b"\xff", cbor2.dumps({}), cbor2.dumps([1]), cbor2.dumps([b"x"])[:-1]])
def test_damaged_revocations_are_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / REVOKED).write_bytes(data)
    with pytest.raises(DamagedError, match="learned anew"):
        read_revoked_untrusted(tmp_path / REVOKED)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"signed": 1}',
        '{"signed": "1", "ran": 1}',
        '{"signed": -1, "ran": 1}',
        '{"signed": 1, "ran": 1e15}',
        '{"signed": NaN, "ran": 1}',
        '{"signed": true, "ran": 1}',
        "[" * 5000,
        json.dumps({"signed": 1, "ran": 1, "more": "x" * 5000}),
    ],
)
def test_a_damaged_clock_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / CLOCK).write_text(text)
    with pytest.raises(DamagedError):
        read_floors_untrusted(tmp_path / CLOCK)


def test_a_directory_in_the_files_place(tmp_path: Path) -> None:
    (tmp_path / CLOCK).mkdir()
    with pytest.raises(DamagedError, match="cannot be read"):
        read_floors_untrusted(tmp_path / CLOCK)


def test_whether_this_machine_is_revoked(tmp_path: Path) -> None:
    till = FLEET.member("till", directory=tmp_path)
    assert till.directory is not None
    assert not is_revoked(till)
    write_revoked(till.directory / REVOKED, [taken_back("other")])
    assert not is_revoked(till)
    own = revoke(
        FLEET.root, FLEET.root.certificate, peer=till.key.peer_id, site="hq", at=NOW, until=NOW + DAY
    )
    write_revoked(till.directory / REVOKED, [own])
    assert is_revoked(till)
    (till.directory / REVOKED).write_bytes(b"\xff")
    assert not is_revoked(till)
    assert not is_revoked(FLEET.member("in-memory"))
