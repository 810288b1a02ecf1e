"""The server's TLS: what is taken for a certificate, and that newer ones come into force by themselves."""

import ssl
import warnings
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from structlog.testing import capture_logs
from trio.testing import MockClock

from meshsat.errors import ConfigError
from meshsat.http import tls
from meshsat.http.tls import Files, Pair, ServerTls, new_context
from tests.certificates import PrivateCA
from tests.handshake import client_context, shake_hands

NOW = 1_800_000_000.0
DAY = 86400.0


class Place:
    """A private CA, and the two files that the settings name."""

    def __init__(self, directory: Path) -> None:
        self._ca = PrivateCA(directory)
        self.certificate, self.key = directory / "tls.crt", directory / "tls.key"
        self.client = client_context(self._ca.ca_file.read_bytes())
        self.client.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self.put("node.lan")

    def put(self, host: str, *, only_certificate: bool = False) -> None:
        certificate, key = self._ca.issue(host)
        self.certificate.write_bytes(certificate.read_bytes())
        if not only_certificate:
            self.key.write_bytes(key.read_bytes())
        self.key.chmod(0o600)

    @property
    def files(self) -> Files:
        return Files(self.certificate, self.key)

    def shows(self, server: ServerTls, host: str) -> bool:
        try:
            shake_hands(server.context, self.client, host)
        except ssl.SSLCertVerificationError:
            return False
        return True


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def make(place: Place) -> ServerTls:
    return ServerTls(place.files, lambda: 0.0)


def test_the_certificate_is_shown(place: Place) -> None:
    server = make(place)
    assert place.shows(server, "node.lan")
    assert server.problem is None
    assert shake_hands(server.context, place.client, "node.lan").version() == "TLSv1.3"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(place: Place, version: ssl.TLSVersion) -> None:
    place.client.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        place.client.minimum_version = version
        place.client.maximum_version = version
    with pytest.raises(ssl.SSLError):
        shake_hands(make(place).context, place.client, "node.lan")
    assert new_context().minimum_version == ssl.TLSVersion.TLSv1_2  # whatever the ciphers would let


def test_1_2_has_forward_secrecy_and_aead(place: Place) -> None:
    place.client.maximum_version = ssl.TLSVersion.TLSv1_2
    cipher = shake_hands(make(place).context, place.client, "node.lan").cipher()
    assert cipher is not None
    assert cipher[0].startswith("ECDHE-")
    assert all(one["aead"] for one in new_context().get_ciphers())


async def test_newer_files_come_into_force(place: Place) -> None:
    server = make(place)
    place.put("other.lan")
    assert place.shows(server, "node.lan")
    with capture_logs() as logs:
        await server.refresh()
        await server.refresh()
    assert len(logs) == 1
    assert place.shows(server, "other.lan")
    assert not place.shows(server, "node.lan")


async def test_they_are_looked_for_all_the_time(
    place: Place, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    async def refresh(self: ServerTls) -> None:
        looks.append(trio.current_time())

    monkeypatch.setattr(ServerTls, "refresh", refresh)
    with trio.move_on_after(3.5 * tls.LOOK):
        await make(place).run()
    assert len(looks) == 3


async def test_a_pair_that_is_half_written_waits_for_the_other_half(place: Place) -> None:
    server = make(place)
    place.put("other.lan", only_certificate=True)
    with capture_logs() as logs:
        await server.refresh()
        await server.refresh()
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert place.shows(server, "node.lan")
    assert server.problem == (
        "registry.tls: the key is not the certificate's; check registry.tls.certificate and registry.tls.key; "
        "the certificate of before stays in force"
    )
    place.put("third.lan")
    await server.refresh()
    assert place.shows(server, "third.lan")
    assert server.problem is None


async def test_files_that_go_leave_the_certificate_of_before(place: Place) -> None:
    server = make(place)
    place.key.unlink()
    await server.refresh()
    assert place.shows(server, "node.lan")
    assert server.problem is not None
    assert "tls.key cannot be read: No such file" in server.problem


async def test_nothing_is_read_that_did_not_change(place: Place) -> None:
    server = make(place)
    with capture_logs() as logs:
        await server.refresh()
    assert logs == []


def test_an_end_that_comes_near_is_told(place: Place) -> None:
    made = tls.check_pair(place.files.load()).timestamp()
    for left, told in ((tls.SOON + 60, None), (tls.SOON - 60, "ends"), (-60, "has ended")):
        problem = ServerTls(place.files, lambda: made - left).problem  # noqa: B023 - called at once
        assert problem is None if told is None else told in (problem or "")


@pytest.mark.parametrize("mode", [0o644, 0o602])
def test_a_key_that_is_open_to_everybody_is_refused(place: Place, mode: int) -> None:
    place.key.chmod(mode)
    with pytest.raises(ConfigError, match=rf"registry.tls.key: .*mode {mode:o}.; run: chmod 600"):
        make(place)
    place.key.chmod(0o640)  # a group may be who runs the node
    make(place)


def test_what_is_no_certificate_is_told(place: Place) -> None:
    place.certificate.write_text("nonsense")
    with pytest.raises(ConfigError, match="not a certificate and a key in PEM"):
        make(place)
    place.certificate.write_bytes(b"x" * (tls.PEM_LIMIT + 1))
    with pytest.raises(ConfigError, match="longer than"):
        make(place)


def test_a_key_with_a_passphrase_is_told_and_nobody_is_asked(place: Place) -> None:
    key = load_pem_private_key(place.key.read_bytes(), None)
    place.key.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    with pytest.raises(ConfigError, match="the key has a passphrase"):
        make(place)


def test_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"registry.tls.certificate: .*none cannot be read"):
        ServerTls(Files(tmp_path / "none", tmp_path / "none"), lambda: NOW)


def test_a_pair_shows_nothing() -> None:
    assert "secret" not in repr(Pair(b"c", b"secret"))
