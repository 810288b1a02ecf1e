"""A fleet for tests: members with real keys and passes, in memory or as files."""

import time
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

from meshsat.mesh.identity import Identity, accept_pass, identity_dir
from meshsat.trust.issuing import issue_enroller, issue_pass, make_root
from meshsat.trust.keys import NodeKey
from meshsat.trust.passes import (
    DAY,
    ENROLLER,
    ENROLLER_LIFETIME,
    EVERY_SITE,
    NODE,
    PASS_LIFETIME,
    Issuer,
    Subject,
    parse_root_untrusted,
    verify_pass_untrusted,
)


@dataclass
class Fleet:
    """`now` is the Unix time at which everything is issued."""

    name: str = "acme"
    now: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        key = NodeKey.generate()
        self.root = Issuer(key, make_root(key, self.name, self.now))
        boss = NodeKey.generate()
        certificate = issue_enroller(
            self.root, self.subject(boss, "boss", ENROLLER, site=EVERY_SITE), self.now
        )
        self.enroller = Issuer(boss, certificate)
        self.id = parse_root_untrusted(self.root.certificate).fleet

    @staticmethod
    def subject(key: NodeKey, name: str, *roles: str, site: str = "hq") -> Subject:
        return Subject(key.peer_id, site, name, frozenset({NODE, *roles}))

    def chain(
        self, key: NodeKey, name: str = "node", *, site: str = "hq", lifetime: float = PASS_LIFETIME
    ) -> tuple[bytes, ...]:
        """A pass from the enroller for a key."""
        return issue_pass(self.enroller, self.subject(key, name, site=site), self.now, lifetime)

    def member(
        self,
        name: str = "node",
        *,
        site: str = "hq",
        enroller: bool = False,
        right: str = EVERY_SITE,
        lifetime: float = PASS_LIFETIME,
        directory: Path | None = None,
    ) -> Identity:
        """A member; with `directory` its files are written there as a data directory's. A pass with a negative
        lifetime ran out so many seconds ago. `right`: the site for which an enroller issues."""
        key = NodeKey.generate()
        certificate = None
        if enroller:
            subject = self.subject(key, name, ENROLLER, site=site)
            certificate = issue_enroller(self.root, replace(subject, site=right), self.now, ENROLLER_LIFETIME)
            chain = issue_pass(self.root, subject, self.now, lifetime)
        else:
            chain = self.chain(key, name, site=site, lifetime=lifetime)
        if directory is None:
            member = verify_pass_untrusted(chain, self.root.certificate, None)
            return Identity(key, member, self.root.certificate, certificate)
        write_key(directory, key)
        return accept_pass(directory, self.root.certificate, chain, certificate)

    def stale(self, name: str, ago: float, directory: Path | None = None) -> Identity:
        """A member whose pass ran out `ago` seconds ago."""
        earlier = copy(self)
        earlier.now = self.now - ago - DAY
        return earlier.member(name, lifetime=DAY, directory=directory)

    def expired(self, name: str = "late", directory: Path | None = None) -> Identity:
        """A member whose pass ran out an hour ago."""
        return self.member(name, lifetime=-DAY / 24, directory=directory)


def write_key(directory: Path, key: NodeKey) -> None:
    path = identity_dir(directory) / "node.key"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(key.to_pem())
    path.chmod(0o600)
