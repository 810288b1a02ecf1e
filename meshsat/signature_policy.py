"""Signature policy: which images must be signed, by whose keys, and what happens to those that are not.

The first rule whose pattern matches decides; where none does, an image is accepted. A manifest that is asked
for by its digest has the tags that it is known under, and the most lenient rule of those decides; where no
tag is known, it may be of any: then the strictest of the rules that could be meant decides.

Rules come from the configuration (`rules_of`) and from the desired state (`Rule.parse_untrusted`), and change
while the node runs.
Laws: what says something of another manifest (a signature, an attestation, an SBOM) needs no signature, and
is told by its own bytes, not by its name.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from meshsat.config import SignatureRule
from meshsat.errors import ConfigError, InvalidInputError
from meshsat.fleet.artifact import LIMITS as STATE_LAYERS
from meshsat.keyless import CertificateSigner
from meshsat.oci.manifest import Manifest
from meshsat.oci.media_types import OCI_ARTIFACT_MANIFEST
from meshsat.oci.pattern import Pattern
from meshsat.oci.referrers import is_about_digest, subject_of
from meshsat.trust.cosign import BUNDLE, KEY_LIMIT, SIMPLE_SIGNING, VerificationKey

Action = Literal["block", "warn", "accept"]
KEYS_LIMIT = 64
"""Of one rule."""

_STRICTNESS: tuple[Action, ...] = ("accept", "warn", "block")
_STATEMENT_TYPES = frozenset(
    {
        *STATE_LAYERS,  # desired states: signed in their own way
        SIMPLE_SIGNING,
        BUNDLE,
        "application/vnd.dsse.envelope.v1+json",
        "application/vnd.in-toto+json",
        "application/vnd.dev.sigstore.bundle+json",
        "application/jose+json",
        "application/cose",
        "application/spdx+json",
        "application/vnd.cyclonedx+json",
        "application/vnd.cyclonedx+xml",
        "application/vnd.syft+json",
        "text/spdx",
        "text/spdx+json",
    }
)
"""Layers of which nothing can be run: signatures (cosign, Notary), attestations, SBOMs."""


@dataclass(frozen=True, slots=True)
class Rule:
    origin: str
    """Where it stands, for people: `rule 2 of signatures`."""
    pattern: Pattern
    action: Action
    keys: tuple[VerificationKey, ...] = ()
    certificate: CertificateSigner | None = None
    """Counts like one of the keys."""
    threshold: int = 1
    """Different ones of these that must have signed."""
    match_identity: bool = False
    """Whether the name that the signer gave the image must be that of the repository it is in."""

    @classmethod
    def parse_untrusted(
        cls,
        origin: str,
        *,
        pattern: object,
        action: Action,
        keys: Sequence[tuple[str, bytes]] = (),
        threshold: int = 1,
        match_identity: bool = False,
        certificate: CertificateSigner | None = None,
    ) -> Self:
        """`keys`: names, and PEM. Raises `InvalidInputError`: what is wrong with it."""
        try:
            found = _keys_untrusted(action, keys, threshold, 0 if certificate is None else 1)
            of = Pattern.parse_untrusted(pattern)
            return cls(origin, of, action, found, certificate, threshold, match_identity)
        except InvalidInputError as fault:
            raise InvalidInputError(f"{origin}: {fault}") from None


def _keys_untrusted(
    action: str, keys: Sequence[tuple[str, bytes]], threshold: int, others: int
) -> tuple[VerificationKey, ...]:
    if action not in _STRICTNESS:
        raise InvalidInputError(f"action {action!r}: block, warn or accept")
    if len(keys) > KEYS_LIMIT:
        raise InvalidInputError(f"more than {KEYS_LIMIT} keys")
    found = dict.fromkeys(VerificationKey.parse_untrusted(pem, name) for name, pem in keys)
    there = len(found) + others
    if action == "accept" and there:
        raise InvalidInputError("it accepts without a look: leave the keys out, or say block or warn")
    if action != "accept" and not 1 <= threshold <= there:
        raise InvalidInputError(f"{threshold} different keys must have signed, and {there} are given")
    return tuple(found)


def rules_of(section: Iterable[SignatureRule], read: Callable[[Path], bytes]) -> tuple[Rule, ...]:
    """Those of the configuration, with the keys read. Raises `ConfigError`."""
    rules: list[Rule] = []
    for number, rule in enumerate(section, 1):
        origin = f"rule {number} of signatures"
        try:
            keys = [(str(path), read(path)) for path in rule.keys]
            rules.append(
                Rule.parse_untrusted(
                    origin,
                    pattern=rule.pattern,
                    action=rule.action,
                    keys=keys,
                    threshold=rule.threshold,
                    match_identity=rule.identity == "match",
                    certificate=_certificate_of(rule),
                )
            )
        except InvalidInputError as fault:
            raise ConfigError(str(fault)) from None
        except ConfigError as fault:
            raise ConfigError(f"{origin}: {fault}") from None
        except OSError as fault:
            raise ConfigError(f"{origin}: {fault.filename} can't be read: {fault.strerror}") from None
    return tuple(rules)


def _certificate_of(rule: SignatureRule) -> CertificateSigner | None:
    if rule.certificate_identity is None or rule.certificate_issuer is None or rule.trusted_root is None:
        return None
    return CertificateSigner.load(rule.certificate_identity, rule.certificate_issuer, rule.trusted_root)


def read_key(path: Path) -> bytes:
    """A file's first bytes: as many as a key may have, and one more. Raises `OSError`."""
    with path.open("rb") as file:
        return file.read(KEY_LIMIT + 1)


class SignaturePolicy:
    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._rules = tuple(rules)
        self.version = 0
        """Another for each set of rules; verdicts are of one."""

    @property
    def is_empty(self) -> bool:
        """Whether everything is accepted."""
        return all(rule.action == "accept" for rule in self._rules)

    def replace(self, rules: Sequence[Rule]) -> None:
        """From now on these decide, of what is served already as well."""
        if tuple(rules) != self._rules:
            self._rules = tuple(rules)
            self.version += 1

    def rule_for(
        self, registry: str, repository: str, tags: Collection[str], *, lenient: bool = False
    ) -> Rule | None:
        """Which rule decides about a manifest that is known under these tags; None: it is accepted.
        `lenient`: without a tag, the most lenient that could be meant."""
        if tags:
            return min((self._of_tag(registry, repository, tag) for tag in tags), key=_strictness)
        choose = min if lenient else max
        return choose(self._could_be_meant(registry, repository), key=_strictness)

    def _of_tag(self, registry: str, repository: str, tag: str) -> Rule | None:
        return next((rule for rule in self._rules if rule.pattern.matches(registry, repository, tag)), None)

    def _could_be_meant(self, registry: str, repository: str) -> list[Rule | None]:
        """The rules for some tags, and the first that is for all of them."""
        meant: list[Rule | None] = []
        for rule in self._rules:
            if rule.pattern.matches_name(registry, repository):
                meant.append(rule)
                if not rule.pattern.has_tag:
                    return meant
        return [*meant, None]


def _strictness(rule: Rule | None) -> int:
    return 0 if rule is None else _STRICTNESS.index(rule.action)


def needs_no_signature(manifest: Manifest, tags: Collection[str]) -> bool:
    """Whether it says something of another manifest, and can't be run; or lists what does. `tags`: those that
    it is known under."""
    if manifest.is_index:  # what it lists is judged by itself
        return any(subject_of(tag) is not None for tag in tags)
    layers = manifest.blobs if manifest.media_type == OCI_ARTIFACT_MANIFEST else manifest.blobs[1:]
    if manifest.foreign or not all(layer.media_type in _STATEMENT_TYPES for layer in layers):
        return False
    return bool(layers) or any(is_about_digest(tag) for tag in tags)
