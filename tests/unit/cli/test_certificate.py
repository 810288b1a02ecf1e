import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from meshsat.mesh.identity import accept_pass, node_key
from meshsat.trust.issuing import issue_pass
from meshsat.trust.passes import Subject
from tests.fleet import Fleet
from tests.handshake import client_context, server_context, shake_hands
from tests.unit.cli.conftest import Meshsat


@pytest.fixture
def data_dir(meshsat: Meshsat, tmp_path: Path) -> Path:
    meshsat("init", "trains", "--name", "coach-7", "--data-dir", tmp_path / "data")
    return tmp_path / "data"


def test_a_server_that_has_it_is_trusted(meshsat: Meshsat, data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "node-2"
    ended = meshsat("certificate", "node-2.lan", "192.0.2.8", "-o", out, "--data-dir", data_dir)
    assert ended.code == 0
    for name in ("tls.crt", "tls.key", "ca.crt"):
        assert str(out / name) in ended.out
    server = server_context((out / "tls.crt").read_bytes(), (out / "tls.key").read_bytes())
    for name in ("node-2.lan", "192.0.2.8"):
        shake_hands(server, client_context((out / "ca.crt").read_bytes()), name)
    assert stat.S_IMODE((out / "tls.key").stat().st_mode) == 0o600
    assert "PRIVATE" not in ended.out + ended.err


def test_how_long_it_lasts_is_a_flag(meshsat: Meshsat, data_dir: Path, tmp_path: Path) -> None:
    for flags, days in (((), 365), (("--valid", "30d", "--force"), 30)):
        meshsat("certificate", "a.lan", "-o", tmp_path / "out", *flags, "--data-dir", data_dir)
        issued = x509.load_pem_x509_certificate((tmp_path / "out" / "tls.crt").read_bytes())
        left = issued.not_valid_after_utc - datetime.now(UTC)
        assert timedelta(days=days) - timedelta(minutes=1) < left <= timedelta(days=days)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("a b",), "'a b' is neither a host's name nor an address"),
        (("a.lan", "--valid", "900d"), "1 to 825 days"),
        (("a.lan", "--valid", "1h"), "1 to 825 days"),
        (("a.lan", "--valid", "soon"), "no duration"),
    ],
)
def test_what_is_no_certificate_is_told(
    meshsat: Meshsat, data_dir: Path, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    ended = meshsat("certificate", *arguments, "-o", tmp_path / "out", "--data-dir", data_dir)
    assert ended.code == 2
    assert told in ended.err
    assert not (tmp_path / "out").exists()


def test_a_certificate_that_is_there_stays(meshsat: Meshsat, data_dir: Path, tmp_path: Path) -> None:
    command = ("certificate", "a.lan", "-o", tmp_path / "out", "--data-dir", data_dir)
    meshsat(*command)
    before = (tmp_path / "out" / "tls.key").read_bytes()
    ended = meshsat(*command)
    assert ended.code == 2
    assert "--force" in ended.err
    assert (tmp_path / "out" / "tls.key").read_bytes() == before
    assert meshsat(*command, "--force").code == 0
    assert (tmp_path / "out" / "tls.key").read_bytes() != before


def test_a_node_that_may_not_is_told_where_to(meshsat: Meshsat, tmp_path: Path) -> None:
    fleet = Fleet()
    key = node_key(tmp_path)
    accept_pass(
        tmp_path,
        fleet.root.certificate,
        issue_pass(fleet.enroller, Subject(key.peer_id, "hq", "till-1"), fleet.now),
    )
    ended = meshsat("certificate", "a.lan", "-o", tmp_path / "out", "--data-dir", tmp_path)
    assert ended.code == 2
    assert "it is no enroller" in ended.err
