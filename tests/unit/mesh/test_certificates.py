"""The fleet's certificate for a registry: who may make one, for which names, and when the next one is due."""

import socket
import stat
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from meshsat.errors import ConfigError
from meshsat.http.tls import Pair, ServerTls
from meshsat.mesh.certificates import FleetCertificate, authority_of, write_certificate
from meshsat.trust.passes import DAY
from meshsat.trust.servers import LIFETIME
from tests.fleet import Fleet
from tests.handshake import client_context, shake_hands


class Machine:
    """An enroller whose clock and addresses a test sets."""

    def __init__(self, directory: Path, *names: str) -> None:
        self.fleet = Fleet()
        self.now = time.time()
        self.addresses = ["192.0.2.7"]
        self.ca = directory / "registry-ca.crt"
        self.source = FleetCertificate(
            self.fleet.member("boss", enroller=True),
            names,
            self.ca,
            now=lambda: self.now,
            addresses=lambda: self.addresses,
        )
        self.server = ServerTls(self.source, lambda: self.now)

    async def renewed(self) -> bool:
        """Whether a look makes another certificate."""
        before = self.source._generation
        await self.server.refresh()
        return self.source._generation > before

    def shows(self, name: str) -> None:
        shake_hands(self.server.context, client_context(self.ca.read_bytes()), name)


def test_it_is_for_all_that_the_machine_is_called(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "registry.example")
    for name in (socket.gethostname(), "localhost", "127.0.0.1", "::1", "192.0.2.7", "registry.example"):
        machine.shows(name)
    assert stat.S_IMODE(machine.ca.stat().st_mode) == 0o644


async def test_it_is_made_anew_in_time(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert not await machine.renewed()
    machine.now += LIFETIME * 2 / 3 - DAY
    assert not await machine.renewed()
    machine.now += 2 * DAY
    assert await machine.renewed()
    assert not await machine.renewed()


async def test_a_clock_that_was_wrong_costs_one_certificate(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.now -= 3600
    assert await machine.renewed()
    assert not await machine.renewed()


async def test_a_new_address_makes_it_anew_and_one_that_went_does_not(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.addresses = ["192.0.2.7", "198.51.100.9"]
    assert await machine.renewed()
    machine.shows("198.51.100.9")
    machine.addresses = ["192.0.2.7"]
    assert not await machine.renewed()


def test_so_many_addresses_leave_room_for_the_names(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "registry.example")
    machine.addresses = [f"192.0.2.{number}" for number in range(200)]
    names = machine.source._wanted()
    assert {"registry.example", "localhost"} <= set(names)


def test_who_is_no_enroller_is_told_the_verb(tmp_path: Path) -> None:
    fleet = Fleet()
    with pytest.raises(
        ConfigError, match=r"till-1 may not issue certificates.*run `meshsat certificate HOST"
    ):
        FleetCertificate(fleet.member("till-1"), (), tmp_path / "ca.crt")
    assert not (tmp_path / "ca.crt").exists()


def test_a_name_that_is_none_is_told_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"registry.tls.names: 'a b' is neither"):
        Machine(tmp_path, "a b")


def test_a_place_that_cant_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        Machine(tmp_path / "none")


def test_files_for_another_machine(tmp_path: Path) -> None:
    fleet = Fleet()
    authority = authority_of(fleet.member("boss", enroller=True), fleet.now)
    pair = Pair(*authority.issue(["node-2.lan"], fleet.now))
    write_certificate(tmp_path / "new" / "place", pair, authority.pem)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new" / "place").iterdir()}
    assert modes == {"tls.key": 0o600, "tls.crt": 0o644, "ca.crt": 0o644}
    load_pem_private_key((tmp_path / "new" / "place" / "tls.key").read_bytes(), None)
    x509.load_pem_x509_certificate((tmp_path / "new" / "place" / "ca.crt").read_bytes())
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_certificate(tmp_path / "file", pair, authority.pem)
