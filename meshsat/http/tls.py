"""The TLS of a server: one context for its whole life, in which certificates are renewed.

Where certificate and key come from is a `Source`: two files here, the fleet's key in mesh/certificates.py.
Laws: TLS 1.2 or newer; a pair is tried before it is put in force, so a pair that does not fit leaves the one
of before; the key is on no other disk than its own. A connection keeps what it began with.
"""

import os
import ssl
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog
import trio
from cryptography import x509

from meshsat.errors import ConfigError

LOOK = 30.0
"""Seconds between two looks whether there is a newer certificate."""
SOON = 7 * 86400.0
"""Seconds before the end from which on it is told."""
PEM_LIMIT = 256 * 1024
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; 1.3 has none that are weak."""

log = structlog.get_logger(__name__)


class Pair(NamedTuple):
    """PEM. No repr shows the key."""

    certificate: bytes
    """The server's own first, then those between it and the CA."""
    key: bytes

    def __repr__(self) -> str:
        return "Pair(...)"


class Source(Protocol):
    """Where a pair comes from. Both are blocking."""

    def look(self) -> object:
        """Something that is equal as long as the pair of the last `load` is to be kept."""
        ...

    def load(self) -> Pair:
        """Raises `ConfigError`."""
        ...


class Files:
    """A certificate and its key in two files."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key

    def look(self) -> object:
        found: list[object] = []
        for path in (self._certificate, self._key):
            try:
                seen = path.stat()
            except OSError as fault:
                found.append(fault.errno)
            else:
                found.append((seen.st_ctime_ns, seen.st_size, seen.st_ino))
        return tuple(found)

    def load(self) -> Pair:
        return Pair(_read(self._certificate, secret=False), _read(self._key, secret=True))


class ServerTls:
    """`context` is for the server. Reads the source at once; raises `ConfigError`. `now`: Unix seconds."""

    def __init__(self, source: Source, now: Callable[[], float]) -> None:
        self._source = source
        self._now = now
        self._seen: object = source.look()
        self.context = new_context()
        pair = source.load()
        self._ends = check_pair(pair)
        _put(self.context, pair)
        self._fault: str | None = None

    @property
    def problem(self) -> str | None:
        """What an operator has to do something about."""
        if self._fault is not None:
            return f"{self._fault}; the certificate of before stays in force"
        left = self._ends.timestamp() - self._now()
        if left < SOON:
            ended = "has ended" if left < 0 else "ends"
            return f"registry.tls: the certificate {ended} on {self._ends:%Y-%m-%d %H:%M} UTC; renew it"
        return None

    async def run(self) -> None:
        """Put newer certificates in force, until cancelled."""
        while True:
            await trio.sleep(LOOK)
            await self.refresh()

    async def refresh(self) -> None:
        """Look once."""
        seen = await trio.to_thread.run_sync(self._source.look)
        if seen == self._seen:
            return
        try:
            pair, ends = await trio.to_thread.run_sync(self._load)
            _put(self.context, pair)  # here, where handshakes run: none sees half of it
        except ConfigError as fault:
            if self._fault != str(fault):
                log.warning("the certificate of before stays in force", problem=str(fault))
            self._fault = str(fault)
            return
        self._seen, self._ends, self._fault = seen, ends, None
        log.info("certificate renewed", ends=f"{ends:%Y-%m-%d}")

    def _load(self) -> tuple[Pair, datetime]:
        pair = self._source.load()
        return pair, check_pair(pair)


def new_context() -> ssl.SSLContext:
    """For a server, still without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    return context


def check_pair(pair: Pair) -> datetime:
    """When the certificate ends. Raises `ConfigError` when it and its key can't be used together."""
    _put(new_context(), pair)
    try:
        return x509.load_pem_x509_certificates(pair.certificate)[0].not_valid_after_utc
    except ValueError:
        raise ConfigError("registry.tls: the certificate can't be read") from None


def _put(context: ssl.SSLContext, pair: Pair) -> None:
    """Raises `ConfigError`."""
    # OpenSSL reads files only. This one is in memory, and nobody else's: memfd_create(2).
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(pair.key + b"\n" + pair.certificate)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_passphrase)
    except ssl.SSLError as fault:
        what = {
            "KEY_VALUES_MISMATCH": "the key is not the certificate's",
            "EE_KEY_TOO_SMALL": "the certificate's key is too short",
        }.get(fault.reason or "", f"not a certificate and a key in PEM ({fault.reason or 'PEM lib'})")
        raise ConfigError(
            f"registry.tls: {what}; check registry.tls.certificate and registry.tls.key"
        ) from None
    except (ValueError, _PassphraseError):
        raise ConfigError("registry.tls: the key has a passphrase; store it without (openssl pkey)") from None
    finally:
        os.close(descriptor)


class _PassphraseError(Exception):
    """Raised so that OpenSSL does not ask for one on the terminal."""


def _no_passphrase() -> str:
    raise _PassphraseError


def _read(path: Path, *, secret: bool) -> bytes:
    setting = f"registry.tls.{'key' if secret else 'certificate'}"
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if secret and mode & 0o007:
                raise ConfigError(
                    f"{setting}: {path} is open to everybody (mode {mode:o}); run: chmod 600 {path}"
                )
            data = file.read(PEM_LIMIT + 1)
    except OSError as fault:
        raise ConfigError(
            f"{setting}: {path} cannot be read: {fault.strerror}; `meshsat certificate` makes one"
        ) from None
    if len(data) > PEM_LIMIT:
        raise ConfigError(f"{setting}: {path} is longer than {PEM_LIMIT} bytes")
    return data
