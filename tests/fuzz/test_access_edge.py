"""What clients and files tell the registry's access: a value or the one documented error, nothing else."""

import json
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.registry.authorization import Password, parse_authorization_untrusted, password_untrusted
from meshsat.registry.htpasswd import parse_htpasswd_untrusted
from meshsat.registry.token_server import parse_form_untrusted
from meshsat.registry.tokens import (
    EVERYTHING,
    Mint,
    Token,
    parse_name_untrusted,
    parse_scopes_untrusted,
    scope_of,
)

FUZZ = settings(derandomize=True, database=None, deadline=None, max_examples=300)
HASH = "$2y$04$" + "a" * 53
MINT = Mint(b"k" * 32, "meshsat")
GOOD = MINT.make(Token("ada", {"repository:a": frozenset({"pull"})}), 1000.0, 300)
FIELD = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=40).map(lambda data: b"Basic " + data),
    st.binary(max_size=40).map(lambda data: b"Bearer " + data),
    st.text("YWRhOnNlY3JldA=:+/ ", max_size=24).map(lambda text: b"Basic " + text.encode()),
)
SCOPE = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(
            ["repository", "registry", "catalog", ":", ",", "*", "pull", "a/b", "h:5", "..", " "]
        ),
        max_size=9,
    ).map("".join),
)


@FUZZ
@given(st.lists(FIELD, max_size=2))
def test_authorization_fields(fields: list[bytes]) -> None:
    with suppress(InvalidInputError):
        credential = parse_authorization_untrusted(fields)
        if isinstance(credential, Password):
            assert credential.name or credential.secret


@FUZZ
@given(st.text(max_size=300), st.binary(max_size=1100))
def test_names_and_passwords(name: str, secret: bytes) -> None:
    with suppress(InvalidInputError):
        assert (password_untrusted(name, secret) is None) == (not name and not secret)


@FUZZ
@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.sampled_from(["ada", ":", HASH, "\n", "#", "*", "\0", "\r", " "]), max_size=12).map(
            lambda parts: "".join(parts).encode()
        ),
    )
)
def test_htpasswd_files(raw: bytes) -> None:
    with suppress(InvalidInputError):
        users = parse_htpasswd_untrusted(raw)
        assert users
        assert all(name.isprintable() and len(hashed) == 60 for name, hashed in users.items())


@FUZZ
@given(st.lists(SCOPE, max_size=4))
def test_scopes(texts: list[str]) -> None:
    with suppress(InvalidInputError):
        for name, actions in parse_scopes_untrusted(texts).items():
            assert actions <= EVERYTHING
            if name is not None:
                assert parse_name_untrusted(scope_of(name).removeprefix("repository:")) == name


@FUZZ
@given(
    st.one_of(
        st.binary(max_size=200),
        st.tuples(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=3)).map(
            lambda change: GOOD[: change[0]] + change[1] + GOOD[change[0] + 1 :]
        ),
    )
)
def test_tokens(text: bytes) -> None:
    with suppress(InvalidInputError):
        MINT.read_untrusted(text, 1000.0)
        assert text == GOOD


@FUZZ
@given(st.one_of(st.binary(max_size=100), st.text("a=b&%+;\u00e9", max_size=40).map(str.encode)))
def test_forms(raw: bytes) -> None:
    with suppress(InvalidInputError):
        json.dumps(parse_form_untrusted(raw))
