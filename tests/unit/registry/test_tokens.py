"""Tokens: what is asked for, what is signed, and that nothing else is believed."""

import base64
import json

import pytest

from meshsat.errors import InvalidInputError
from meshsat.registry.content import Name
from meshsat.registry.tokens import Mint, Token, parse_name_untrusted, parse_scopes_untrusted, scope_of

NOW = 1_800_000_000.0
MINT = Mint(b"k" * 32, "meshsat")
TOKEN = Token("ada", {"repository:team/app": frozenset({"pull", "push"})})


@pytest.mark.parametrize(
    ("texts", "asked"),
    [
        (["repository:team/app:pull,push"], {Name(None, "team/app"): {"pull", "push"}}),
        (["repository:a:pull repository:b:push"], {Name(None, "a"): {"pull"}, Name(None, "b"): {"push"}}),
        (["repository:a:pull", "repository:a:push"], {Name(None, "a"): {"pull", "push"}}),
        (["repository:a:*"], {Name(None, "a"): {"pull", "push", "delete"}}),
        (["repository:h.example:5000/a:pull"], {Name("h.example:5000", "a"): {"pull"}}),
        (["repository:docker.io/busybox:pull"], {Name("docker.io", "library/busybox"): {"pull"}}),
        (["registry:catalog:*"], {None: {"pull", "push", "delete"}}),
        (["repository(plugin):a:pull registry:other:*"], {}),
        (["repository:a:cook"], {Name(None, "a"): set()}),
        ([], {}),
    ],
)
def test_scopes_are_read(texts: list[str], asked: dict[Name | None, set[str]]) -> None:
    assert parse_scopes_untrusted(texts) == asked


@pytest.mark.parametrize(
    "text",
    [
        "repository",
        "repository:a",
        "repository:A:pull",
        "repository::pull",
        "repository:a:",
        "repository:a:P",
        "repository:../a:pull",
        "repository:" + "a" * 600 + ":pull",
        "repository:a:pull " * 65,
    ],
)
def test_what_is_no_scope_is_told(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_scopes_untrusted([text])


def test_a_scope_names_the_registry_where_the_request_does() -> None:
    assert scope_of(Name(None, "team/app")) == "repository:team/app"
    assert scope_of(Name("h.example:5000", "app")) == "repository:h.example:5000/app"
    assert parse_name_untrusted("h.example:5000/app") == Name("h.example:5000", "app")


@pytest.mark.parametrize("token", [TOKEN, Token(None, {}), Token("ada", {})])
def test_a_token_comes_back(token: Token) -> None:
    text = MINT.make(token, NOW, 300)
    assert MINT.read_untrusted(text, NOW + 299) == token
    header, payload, _ = text.split(b".")
    assert json.loads(base64.urlsafe_b64decode(header + b"==")) == {"alg": "HS256", "typ": "JWT"}
    assert json.loads(base64.urlsafe_b64decode(payload + b"==="))["exp"] == NOW + 300


def test_a_token_ends() -> None:
    with pytest.raises(InvalidInputError, match="expired"):
        MINT.read_untrusted(MINT.make(TOKEN, NOW, 300), NOW + 300)


@pytest.mark.parametrize("mint", [Mint(b"x" * 32, "meshsat"), Mint(b"", "meshsat")])
def test_anothers_token_is_not_believed(mint: Mint) -> None:
    with pytest.raises(InvalidInputError, match="not one of this node"):
        MINT.read_untrusted(mint.make(TOKEN, NOW, 300), NOW)


def test_a_token_for_another_service_is_not_believed() -> None:
    with pytest.raises(InvalidInputError):
        MINT.read_untrusted(Mint(MINT.key, "other").make(TOKEN, NOW, 300), NOW)


def test_any_other_byte_makes_it_another() -> None:
    good = MINT.make(TOKEN, NOW, 300)
    for at in range(len(good)):
        wrong = good[:at] + (b"A" if good[at : at + 1] != b"A" else b"B") + good[at + 1 :]
        with pytest.raises(InvalidInputError):
            MINT.read_untrusted(wrong, NOW)
    header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=")
    for wrong in (b"", b".", b"..", good + b".", good[:-1], header + good[good.index(b".") :], b"a" * 70_000):
        with pytest.raises(InvalidInputError):
            MINT.read_untrusted(wrong, NOW)


def test_the_key_is_not_shown() -> None:
    assert "kkk" not in repr(MINT)
