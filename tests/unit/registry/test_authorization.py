"""The Authorization field: whom it names, and what is no credential."""

import base64

import pytest

from meshsat.errors import InvalidInputError
from meshsat.registry.authorization import Bearer, Password, parse_authorization_untrusted, password_untrusted


def basic(text: bytes) -> bytes:
    return b"Basic " + base64.b64encode(text)


@pytest.mark.parametrize(
    ("field", "credential"),
    [
        (basic(b"ada:secret"), Password("ada", b"secret")),
        (basic(b"ada:a:b").replace(b"Basic", b"bASIC"), Password("ada", b"a:b")),
        (basic(b"ada:"), Password("ada", b"")),
        (basic("jos\u00e9:pass\u00e9".encode()), Password("jos\u00e9", "pass\u00e9".encode())),
        (basic(b":"), None),
        (b"Bearer abc.def-_", Bearer(b"abc.def-_")),
        (b"bearer   abc", Bearer(b"abc")),
    ],
)
def test_it_is_read(field: bytes, credential: object) -> None:
    assert parse_authorization_untrusted([field]) == credential


def test_without_a_field_nobody_is_named() -> None:
    assert parse_authorization_untrusted([]) is None


@pytest.mark.parametrize(
    "fields",
    [
        [basic(b"ada:secret"), basic(b"ada:secret")],
        [b"Bearer " + b"a" * 16384],
        [b""],
        [b"Basic"],
        [b"Basic !!!"],
        [b"Basic YQ"],
        [basic(b"no colon")],
        [basic(b"\xff:x")],
        [basic(b"a:b\0c")],
        [basic(b"a\0:c")],
        [basic(b"a" * 256 + b":c")],
        [basic(b"a:" + b"c" * 1025)],
        [b"Digest abc"],
        [b"Bearer a b"],
    ],
)
def test_what_is_no_credential_is_told_without_it(fields: list[bytes]) -> None:
    with pytest.raises(InvalidInputError) as fault:
        parse_authorization_untrusted(fields)
    assert "secret" not in str(fault.value)


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(Password("ada", b"secret"))
    assert "abc" not in repr(Bearer(b"abc"))


def test_a_forms_empty_fields_name_nobody() -> None:
    assert password_untrusted("", b"") is None
