"""Keyless signatures: sigstore bundles whose key lived for minutes, by a certificate that says who had it.

What is believed is a trusted root of the operator's own choosing, a file: Fulcio's CA, the certificate
transparency log, Rekor. With it the `sigstore` library checks a bundle without any network: the certificate
was good when the log took the signature in, the log's proof holds, the signature is the certificate's. The
library is an extra (`meshsat[keyless]`), and imported only when a rule needs it: it takes some 12 MiB.

Laws: nothing is fetched and nothing refreshed; whatever the library makes of hostile bytes is the one
documented error.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from meshsat.errors import ConfigError, InvalidInputError
from meshsat.oci.digest import Digest
from meshsat.oci.fields import parse_object_untrusted
from meshsat.trust.cosign import BUNDLE_LIMIT, check_statement_untrusted

ROOT_LIMIT = 1 << 20
"""Bytes of a trusted root."""
EXTRA = "keyless signatures need the sigstore library: pip install 'meshsat[keyless]'"


@dataclass(frozen=True, slots=True)
class CertificateSigner:
    """Somebody whose certificates are vouched for by a trusted root. Equal when that is the same."""

    fingerprint: str
    """SHA-256 over who, by whom and the trusted root, in hex."""
    name: str
    _verifier: Any = field(repr=False, compare=False)
    _policy: Any = field(repr=False, compare=False)

    @classmethod
    def load(cls, identity: str, issuer: str, trusted_root: Path) -> Self:
        """`identity`: the certificate's subject, an address or a URI; `issuer`: the OIDC issuer that it was
        shown to. Raises `ConfigError`."""
        try:
            from sigstore.models import TrustedRoot  # noqa: PLC0415 - an extra, and large
            from sigstore.verify import Verifier, policy  # noqa: PLC0415
        except ImportError:
            raise ConfigError(EXTRA) from None
        try:
            with trusted_root.open("rb") as file:
                raw = file.read(ROOT_LIMIT + 1)
            parse_object_untrusted(raw[:ROOT_LIMIT], "trusted root")
            verifier = Verifier(trusted_root=TrustedRoot.from_file(str(trusted_root)))
        except OSError as fault:
            raise ConfigError(f"trusted root {trusted_root} can't be read: {fault.strerror}") from None
        except Exception as fault:  # noqa: BLE001 - as below
            raise ConfigError(f"trusted root {trusted_root} can't be used: {_first_line(fault)}") from None
        marked = f"{identity}\0{issuer}\0".encode() + raw
        return cls(
            hashlib.sha256(marked).hexdigest(),
            f"{identity} (by {issuer})",
            verifier,
            policy.Identity(identity=identity, issuer=issuer),
        )

    def check_bundle_untrusted(self, raw: bytes, subject: Digest) -> None:
        """Raises `InvalidInputError`: they did not sign it, or it says something else; with the reason."""
        from sigstore.models import Bundle  # noqa: PLC0415

        if len(raw) > BUNDLE_LIMIT:
            raise InvalidInputError(f"a bundle of {len(raw)} bytes, more than {BUNDLE_LIMIT}")
        parse_object_untrusted(raw, "bundle")
        try:
            payload_type, payload = self._verifier.verify_dsse(Bundle.from_json(raw), self._policy)
        except Exception as fault:  # noqa: BLE001 - the wall around the library: it raises what it likes
            raise InvalidInputError(f"it is not signed by {self.name}: {_first_line(fault)}") from None
        check_statement_untrusted(payload_type, payload, subject)


def _first_line(fault: Exception) -> str:
    return (str(fault).strip() or type(fault).__name__).splitlines()[0][:200]
