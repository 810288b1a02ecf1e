"""Who this node is, as files: `DATA/identity/`, directory mode 0700, every file 0600.

  node.key      the node's private key (PKCS #8 PEM); also an enroller's: its certificate is for the same key
  root.crt      the fleet's root certificate (PEM)
  pass.crt      the pass's chain, the node's certificate first (PEM). Written last: with it the node is a
                member
  enroller.crt  only on machines that may enrol others
  root.key      only where `meshsat init` ran: the fleet's root key. Copy it to a safe place; it makes
                enrollers
  next/         a new key and what came for it, until that is whole; then it is renamed
  switch/       to this, and whoever reads the identity next moves the files to their places
  before.cbor   of the key before: its pass, and its word for the new one, until it is revoked

Every file is replaced atomically, and a key changes together with its pass by that one rename, so a crash
leaves the old or the new. Whether the pass is still valid today is not judged here: a node whose pass has run
out still serves what it holds to the machines around it.
"""

import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshsat.errors import ConfigError, InvalidInputError
from meshsat.private_files import sync_directory, write_file
from meshsat.trust.issuing import issue_enroller, issue_pass, make_root
from meshsat.trust.keys import NodeKey
from meshsat.trust.passes import (
    ENROLLER,
    EVERY_SITE,
    NODE,
    PASS_LIFETIME,
    Issuer,
    Pass,
    Subject,
    in_days,
    verify_enroller_untrusted,
    verify_pass_untrusted,
)
from meshsat.trust.tokens import ADDRESSES_LIMIT, ID_LENGTH, USES_LIMIT, Grant, make

NODE_KEY = "node.key"
ROOT_CERTIFICATE = "root.crt"
PASS = "pass.crt"  # noqa: S105 - a file's name
ENROLLER_CERTIFICATE = "enroller.crt"
ROOT_KEY = "root.key"
BEFORE = "before.cbor"
NEXT = "next"
SWITCH = "switch"
EARLIEST = 1_600_000_000.0
"""Unix seconds before which no fleet was made: a clock that shows less was never set."""
_SWITCHED = (BEFORE, ENROLLER_CERTIFICATE, NODE_KEY, PASS)
_REMEDY = "restore the files, or remove the directory and join again"


@dataclass(frozen=True, slots=True)
class Identity:
    """A member of a fleet: us."""

    key: NodeKey
    member: Pass
    """Our own pass."""
    root: bytes = field(repr=False)
    """The fleet's root certificate, DER."""
    enroller: bytes | None = field(default=None, repr=False)
    """DER; with it this node enrols others."""
    directory: Path | None = None
    """Where the files are. None: an identity of a test, in memory only."""

    @property
    def chain(self) -> tuple[bytes, ...]:
        return self.member.chain

    @property
    def issuer(self) -> Issuer | None:
        return Issuer(self.key, self.enroller) if self.enroller is not None else None

    def root_issuer(self) -> Issuer | None:
        """The fleet's root, where its key is on this machine. Raises `ConfigError`."""
        if self.directory is None or not (self.directory / ROOT_KEY).exists():
            return None
        return Issuer(_read_key(self.directory / ROOT_KEY), self.root)


def identity_dir(data_dir: Path) -> Path:
    return data_dir / "identity"


def is_member(data_dir: Path) -> bool:
    """Whether this data directory belongs to a member of some fleet."""
    _finish_switch(identity_dir(data_dir))
    return (identity_dir(data_dir) / PASS).exists()


def load(data_dir: Path) -> Identity:
    """Read the identity. Raises `ConfigError` with what to do about it."""
    directory = identity_dir(data_dir)
    if not is_member(data_dir):
        raise ConfigError(
            f"{data_dir} belongs to no fleet yet; "
            "make one with `meshsat init`, or join one with `meshsat join TOKEN`"
        )
    key = _read_key(directory / NODE_KEY)
    roots = _read_certificates(directory / ROOT_CERTIFICATE)
    chain = _read_certificates(directory / PASS)
    try:
        member = verify_pass_untrusted(chain, roots[0], None)
    except InvalidInputError as fault:
        raise ConfigError(f"{directory / PASS}: {fault}; {_REMEDY}") from None
    if member.peer != key.peer_id:
        raise ConfigError(f"{directory / PASS} is not for the key in {NODE_KEY}; {_REMEDY}")
    enroller = directory / ENROLLER_CERTIFICATE
    certificate = _read_certificates(enroller)[0] if enroller.exists() else None
    return Identity(key, member, roots[0], certificate, directory)


def init_fleet(
    data_dir: Path, fleet_name: str, site: str, node_name: str, now: float, lifetime: float = PASS_LIFETIME
) -> Identity:
    """Make a fleet, and this machine its first member, who can enrol others, at all sites. `now` in Unix
    seconds; its own pass lasts `lifetime` seconds.

    Raises `ConfigError` where there is a member already, or a name is not allowed.
    """
    if is_member(data_dir):
        raise ConfigError(f"{data_dir} is a member of fleet {load(data_dir).member.fleet} already")
    if now < EARLIEST:
        raise ConfigError(
            f"this machine's clock shows {in_days(now)}: set it first, since all that a fleet signs is dated"
        )
    key = node_key(data_dir)
    root_key = NodeKey.generate()
    subject = Subject(key.peer_id, site, node_name, frozenset({NODE, ENROLLER}))
    try:
        root = Issuer(root_key, make_root(root_key, fleet_name, now))
        enroller = issue_enroller(root, replace(subject, site=EVERY_SITE), now)
        chain = issue_pass(root, subject, now, lifetime)
    except InvalidInputError as fault:
        raise ConfigError(str(fault)) from None
    write_file(identity_dir(data_dir) / ROOT_KEY, root_key.to_pem())
    return accept_pass(data_dir, root.certificate, chain, enroller)


def node_key(data_dir: Path) -> NodeKey:
    """This machine's key; made at the first call. Raises `ConfigError`."""
    path = identity_dir(data_dir) / NODE_KEY
    if not path.exists():
        write_file(path, NodeKey.generate().to_pem())
    return _read_key(path)


def accept_pass(
    data_dir: Path, root: bytes, chain: Sequence[bytes], enroller: bytes | None = None
) -> Identity:
    """Keep a pass for this machine's key (and an enroller's certificate), and become a member by it.

    A member gets a newer pass of its own fleet in this way too. Raises `ConfigError`.
    """
    directory = identity_dir(data_dir)
    key = node_key(data_dir)
    try:
        member = verify_pass_untrusted(chain, root, None)
        issuer = member.peer if enroller is None else verify_enroller_untrusted(enroller, root, None).peer
    except InvalidInputError as fault:
        raise ConfigError(f"the pass offered is of no use: {fault}") from None
    if not member.peer == issuer == key.peer_id:
        raise ConfigError(f"the pass offered is for {member.peer}, this machine is {key.peer_id}")
    known = directory / ROOT_CERTIFICATE
    if is_member(data_dir) and known.exists() and _read_certificates(known)[0] != root:
        raise ConfigError(f"{data_dir} is a member of another fleet; to leave that, remove {directory}")
    write_file(directory / ROOT_CERTIFICATE, _pem([root]))
    if enroller is not None:
        write_file(directory / ENROLLER_CERTIFICATE, _pem([enroller]))
    write_file(directory / PASS, _pem(member.chain))
    return load(data_dir)


# --- another key


def begin_switch(data_dir: Path) -> NodeKey:
    """A new key for this machine, beside its present one; the same again where an earlier try came to
    nothing. Raises `ConfigError`."""
    path = identity_dir(data_dir) / NEXT / NODE_KEY
    if not path.exists():
        write_file(path, NodeKey.generate().to_pem())
    return _read_key(path)


def switch(
    data_dir: Path, chain: Sequence[bytes], enroller: bytes | None = None, before: bytes = b""
) -> Identity:
    """Take the new key, with the pass that came for it, in place of the present one. `before` is kept until
    the key before is revoked. Raises `ConfigError`."""
    directory = identity_dir(data_dir)
    key, root = begin_switch(data_dir), _read_certificates(directory / ROOT_CERTIFICATE)[0]
    try:
        member = verify_pass_untrusted(chain, root, None)
        issuer = member.peer if enroller is None else verify_enroller_untrusted(enroller, root, None).peer
    except InvalidInputError as fault:
        raise ConfigError(f"the pass offered is of no use: {fault}") from None
    if not member.peer == issuer == key.peer_id:
        raise ConfigError(f"the pass offered is for {member.peer}, the new key is {key.peer_id}")
    write_file(directory / NEXT / PASS, _pem(member.chain))
    write_file(directory / NEXT / ENROLLER_CERTIFICATE, _pem([enroller]) if enroller is not None else b"")
    write_file(directory / NEXT / BEFORE, before)
    try:
        (directory / NEXT).rename(directory / SWITCH)
        sync_directory(directory)
    except OSError as fault:
        raise ConfigError(f"{directory} cannot be written: {fault.strerror}; run this again") from None
    return load(data_dir)


def _finish_switch(directory: Path) -> None:
    """Move what a switch left to its place; an empty file takes the one there away. Raises `ConfigError`."""
    source = directory / SWITCH
    if not source.exists():
        return
    try:
        for name in _SWITCHED:
            with suppress(FileNotFoundError):  # moved before; or by another process just now
                (source / name).replace(directory / name)
        for name in (BEFORE, ENROLLER_CERTIFICATE):
            with suppress(FileNotFoundError):
                if not (directory / name).stat().st_size:
                    (directory / name).unlink()
        sync_directory(directory)
        shutil.rmtree(source, ignore_errors=True)
    except OSError as fault:
        raise ConfigError(f"{source}: {fault.strerror}; who owns the directory?") from None


def superseded(data_dir: Path) -> bytes | None:
    """What `switch` was given as `before`, as long as that key was not revoked."""
    try:
        return (identity_dir(data_dir) / BEFORE).read_bytes() or None
    except OSError:
        return None


def forget_superseded(data_dir: Path) -> None:
    with suppress(OSError):
        (identity_dir(data_dir) / BEFORE).unlink()


def make_token(identity: Identity, grant: Grant) -> str:
    """A join token, for `meshsat invite`. A secret. Raises `ConfigError`."""
    if identity.issuer is None:
        raise ConfigError("this node is no enroller; invite from one, e.g. where `meshsat init` ran")
    try:
        rights = verify_enroller_untrusted(identity.issuer.certificate, identity.root, None)
    except InvalidInputError as fault:
        raise ConfigError(f"this node's certificate as an enroller is of no use: {fault}") from None
    if not rights.covers(grant.site):
        raise ConfigError(f"this enroller lets others in at site {rights.site} only, not at {grant.site}")
    try:
        return make(identity.issuer, identity.root, grant, secrets.token_bytes(ID_LENGTH))
    except InvalidInputError:
        raise ConfigError(
            "the token's site, roles, uses or addresses are not allowed; "
            f"uses are 1 to {USES_LIMIT}, addresses up to {ADDRESSES_LIMIT}"
        ) from None


def _read_key(path: Path) -> NodeKey:
    try:
        mode = path.stat().st_mode
        if mode & 0o077:
            raise ConfigError(f"{path} can be read by others (mode {mode & 0o777:o}); run: chmod 600 {path}")
        return NodeKey.from_pem(path.read_bytes())
    except OSError as fault:
        raise ConfigError(f"{path} cannot be read: {fault.strerror}") from None
    except InvalidInputError as fault:
        raise ConfigError(f"{path}: {fault}; {_REMEDY}") from None


def _read_certificates(path: Path) -> list[bytes]:
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
        return [certificate.public_bytes(Encoding.DER) for certificate in certificates]
    except OSError as fault:
        raise ConfigError(f"{path} cannot be read: {fault.strerror}; {_REMEDY}") from None
    except ValueError:
        raise ConfigError(f"{path} holds no certificate in PEM; {_REMEDY}") from None


def _pem(certificates: Sequence[bytes]) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in certificates)
