"""A server certificate for this machine from the fleet's key: a source for http/tls.py.

It is made at start, and again when a third of its life is left, when the machine's addresses change, and
when the clock turns out to have been wrong. Its key is new each time and on no disk; the CA that clients are
to trust is written where an operator finds it.
"""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from meshsat.errors import ConfigError, InvalidInputError
from meshsat.http.tls import Pair
from meshsat.mesh.identity import Identity
from meshsat.mesh.interfaces import all_addresses
from meshsat.trust.servers import LIFETIME, NAMES_LIMIT, Authority, parse_server_name_untrusted

CA_FILE = "registry-ca.crt"
"""In the data directory; readable by all."""

log = structlog.get_logger(__name__)


def authority_of(identity: Identity, now: float) -> Authority:
    """This machine's CA for server certificates. Raises `ConfigError` where it is no enroller."""
    if identity.issuer is None:
        raise ConfigError(
            f"{identity.member.name} may not issue certificates: it is no enroller of "
            f"{identity.member.fleet}; run `meshsat certificate HOST -o DIR` on one (e.g. where `meshsat "
            "init` ran), copy tls.crt and tls.key here, and set registry.tls.certificate and registry.tls.key"
        )
    return Authority.of_enroller(identity.issuer.key, identity.root, now)


def write_certificate(directory: Path, pair: Pair, ca: bytes) -> None:
    """`tls.key` (0600), `tls.crt` and `ca.crt`, each whole or not at all. Raises `ConfigError`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, data, mode in (
            ("tls.key", pair.key, 0o600),
            ("tls.crt", pair.certificate, 0o644),
            ("ca.crt", ca, 0o644),
        ):
            descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=directory)  # 0600 from the start
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                os.fchmod(descriptor, mode)
            Path(temporary).replace(directory / name)
    except OSError as fault:
        raise ConfigError(f"{directory} cannot be written: {fault.strerror}; name another with -o") from None


class FleetCertificate:
    """`names`: what else this machine is called. Raises `ConfigError` where it is no enroller, or a name is
    none."""

    def __init__(
        self,
        identity: Identity,
        names: Sequence[str],
        ca_file: Path,
        *,
        now: Callable[[], float] = time.time,
        addresses: Callable[[], Sequence[str]] = all_addresses,
    ) -> None:
        self._identity = identity
        self._given = tuple(names)
        self._now = now
        self._addresses = addresses
        self._issued_at = 0.0
        self._names: tuple[str, ...] = ()
        self._generation = 0
        try:
            for name in names:
                parse_server_name_untrusted(name)
        except InvalidInputError as fault:
            raise ConfigError(f"registry.tls.names: {fault}") from None
        pem = authority_of(identity, now()).pem
        try:
            ca_file.write_bytes(pem)
            ca_file.chmod(0o644)  # for people to copy; the directory may still keep them out
        except OSError as fault:
            raise ConfigError(f"{ca_file} cannot be written: {fault.strerror}") from None

    def look(self) -> object:
        age = self._now() - self._issued_at
        due = not 0 <= age < LIFETIME * 2 / 3
        # An address that went may come again, and costs nothing.
        lacks_one = not set(self._wanted()) <= set(self._names)
        return self._generation + 1 if due or lacks_one else self._generation

    def load(self) -> Pair:
        now, names = self._now(), self._wanted()
        pair = Pair(*authority_of(self._identity, now).issue(names, now))
        self._issued_at, self._names = now, names
        self._generation += 1
        log.info("made a certificate for the registry", names=" ".join(names))
        return pair

    def _wanted(self) -> tuple[str, ...]:
        """Host names first; those given are never left out for want of room."""
        host = socket.gethostname()
        own = [host, host.partition(".")[0], f"{host.partition('.')[0]}.local", "localhost"]
        names: dict[str, None] = {}
        for name in (*own[:1], *self._given, *own[1:], "127.0.0.1", "::1", *self._addresses()):
            try:
                parse_server_name_untrusted(name)
            except InvalidInputError:
                continue  # a host may be called what no host should be
            names[name] = None
        return tuple(names)[:NAMES_LIMIT]
