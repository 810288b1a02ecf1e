"""What a request says about who sends it: its `Authorization` field (RFC 9110 11.6.2), read once.

Laws: pure; a secret is in no repr and no error. A name and password that are both empty say nothing: so do
clients answer a challenge that have no credential (podman, skopeo).
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from meshsat.errors import InvalidInputError

FIELD_LIMIT = 16 * 1024
"""Bytes; tokens for many repositories are the longest."""
NAME_LIMIT = 255
PASSWORD_LIMIT = 1024

_TOKEN68 = re.compile(rb"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True, slots=True)
class Password:
    name: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bearer:
    token: bytes = field(repr=False)


Credential = Password | Bearer


def parse_authorization_untrusted(fields: Sequence[bytes]) -> Credential | None:
    """From the values of all Authorization lines. None: nobody says who they are.

    Raises `InvalidInputError` for what is neither.
    """
    if not fields:
        return None
    if len(fields) > 1 or len(fields[0]) > FIELD_LIMIT:
        raise InvalidInputError("several Authorization fields, or one that is too long")
    scheme, _, rest = fields[0].partition(b" ")
    value = rest.strip(b" ")
    if not _TOKEN68.fullmatch(value):
        raise InvalidInputError("the Authorization field is not SCHEME CREDENTIAL")
    match scheme.lower():
        case b"basic":
            return _password_untrusted(value)
        case b"bearer":
            return Bearer(value)
    raise InvalidInputError("the Authorization field's scheme is neither Basic nor Bearer")


def _password_untrusted(value: bytes) -> Password | None:
    try:
        name, colon, secret = base64.b64decode(value, validate=True).partition(b":")
        if not colon:
            raise InvalidInputError("the Basic credential is not NAME:PASSWORD")
        return password_untrusted(name.decode(), secret)
    except ValueError:
        raise InvalidInputError("the Basic credential is not base64 of NAME:PASSWORD in UTF-8") from None


def password_untrusted(name: str, secret: bytes) -> Password | None:
    """None where both are empty. Raises `InvalidInputError`."""
    if len(name) > NAME_LIMIT or len(secret) > PASSWORD_LIMIT or "\0" in name or b"\0" in secret:
        raise InvalidInputError("the credential is too long, or holds a NUL")
    return Password(name, secret) if name or secret else None
