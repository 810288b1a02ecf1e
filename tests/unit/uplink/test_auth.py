"""Challenges as text, and the keeping of tokens on trio's virtual clock, with a token service in memory."""

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import trio
from trio.testing import MockClock

from meshsat.config import UplinkSection
from meshsat.errors import DeniedError, InvalidInputError
from meshsat.uplink.auth import (
    Authenticator,
    Challenge,
    TokenRequest,
    parse_challenges_untrusted,
    parse_token_untrusted,
    realm_untrusted,
)
from meshsat.uplink.credentials import Credentials

BEARER = 'Bearer realm="https://auth.test/token?a=b",service="reg.test",scope="repository:x:pull"'


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], []),
        (["Basic"], [("basic", {})]),
        (['Basic realm="a \\"quoted\\", text"'], [("basic", {"realm": 'a "quoted", text'})]),
        (
            ['Bearer realm="https://h/t",service="s",scope="repository:a/b:pull,push"'],
            [("bearer", {"realm": "https://h/t", "service": "s", "scope": "repository:a/b:pull,push"})],
        ),
        (
            ["Negotiate", 'Bearer REALM = "r" , error=invalid_token, Basic realm=x'],
            [
                ("negotiate", {}),
                ("bearer", {"realm": "r", "error": "invalid_token"}),
                ("basic", {"realm": "x"}),
            ],
        ),
        (['Negotiate YWJj==, , Basic realm="x"'], [("negotiate", {}), ("basic", {"realm": "x"})]),
    ],
)
def test_challenges(lines: list[str], told: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges_untrusted(lines) == tuple(Challenge(*one) for one in told)


@pytest.mark.parametrize(
    "line",
    [
        'realm="x"',
        'Basic realm="x',
        'Basic realm="x", realm="y"',
        "Basic, ;",
        "\x00",
        "Basic " * 2000,
        '"Basic"',
    ],
)
def test_challenges_refused(line: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_challenges_untrusted([line])


@pytest.mark.parametrize(
    ("answer", "text", "lifetime"),
    [
        ({"token": "t"}, "t", 60.0),
        ({"access_token": "a", "expires_in": 300}, "a", 300.0),
        ({"token": "t", "access_token": "a", "expires_in": 10**12}, "t", 86400.0),
        ({"token": "t", "expires_in": -5}, "t", 60.0),
        ({"token": "t", "expires_in": True}, "t", 60.0),
        ({"token": "t", "expires_in": "300"}, "t", 60.0),
    ],
)
def test_token(answer: Mapping[str, object], text: str, lifetime: float) -> None:
    token = parse_token_untrusted(json.dumps(answer).encode())
    assert (token.text, token.lifetime) == (text, lifetime)
    assert repr(text) not in repr(token)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token": ""}', b'{"token": "a\\r\\nX: y"}', b'{"token": 5}', b" " * 70_000]
)
def test_token_refused(body: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse_token_untrusted(body)


def test_realm() -> None:
    assert str(realm_untrusted("https://auth.test/t#x", plain_http=False)) == "https://auth.test/t"
    assert realm_untrusted("http://auth.test/t", plain_http=True).scheme == "http"
    for text in (
        "",
        "auth.test",
        "ftp://auth.test",
        "https://bob:pw@auth.test/t",
        "https://[",
        "http://auth.test/",
    ):
        with pytest.raises(InvalidInputError):
            realm_untrusted(text, plain_http=False)


class TokenService:
    def __init__(self, lifetime: float = 300, status: int = 200) -> None:
        self.requests: list[TokenRequest] = []
        self.lifetime = lifetime
        self.status = status

    async def __call__(self, request: TokenRequest) -> tuple[int, bytes]:
        self.requests.append(request)
        await trio.sleep(0.5)
        told = {"token": f"token{len(self.requests)}", "expires_in": self.lifetime}
        return self.status, json.dumps(told).encode()


def authenticator(
    service: TokenService, tmp_path: Path, auths: Mapping[str, object] | None = None
) -> Authenticator:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": auths or {}}))
    return Authenticator(Credentials(UplinkSection(docker_config=config), {}), service, frozenset())


LOGIN = {"reg.test": {"username": "bob", "password": "hunter2"}}


async def test_nothing_is_sent_before_it_was_asked_for(tmp_path: Path) -> None:
    assert await authenticator(TokenService(), tmp_path, LOGIN).header("reg.test", "x") is None


async def test_token_is_fetched_once_for_all_who_wait_and_kept(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    service = TokenService(lifetime=300)
    auth = authenticator(service, tmp_path)
    headers: list[str | None] = []

    async def pull() -> None:
        headers.append(await auth.renew("reg.test", "x", [BEARER], None))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(pull)
    assert headers == ["Bearer token1"] * 20
    assert await auth.header("reg.test", "x") == "Bearer token1"
    [request] = service.requests
    assert (request.url.host, request.method, "Authorization" in request.headers) == (
        "auth.test",
        "GET",
        False,
    )
    asked = dict(request.url.params)
    assert asked == {"a": "b", "service": "reg.test", "scope": "repository:x:pull"}


async def test_token_is_replaced_shortly_before_its_end(tmp_path: Path, autojump_clock: MockClock) -> None:
    service = TokenService(lifetime=300)
    auth = authenticator(service, tmp_path)
    await auth.renew("reg.test", "x", [BEARER], None)
    await trio.sleep(285)
    assert await auth.header("reg.test", "x") == "Bearer token1"
    await trio.sleep(6)
    assert await auth.header("reg.test", "x") == "Bearer token2"


async def test_a_refused_token_is_replaced_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    service = TokenService()
    auth = authenticator(service, tmp_path)
    first = await auth.renew("reg.test", "x", [BEARER], None)
    renewed: list[str] = []

    async def pull() -> None:
        renewed.append(await auth.renew("reg.test", "x", [BEARER], first))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(pull)
    assert renewed == ["Bearer token2"] * 5
    assert len(service.requests) == 2


async def test_one_repository_has_one_token(tmp_path: Path, autojump_clock: MockClock) -> None:
    service = TokenService()
    auth = authenticator(service, tmp_path)
    await auth.renew("reg.test", "x", [BEARER], None)
    assert await auth.header("reg.test", "y") == "Bearer token2"
    assert service.requests[1].url.params["scope"] == "repository:y:pull"
    assert await auth.header("other.test", "x") is None


async def test_login_goes_to_the_token_service(tmp_path: Path, autojump_clock: MockClock) -> None:
    service = TokenService()
    await authenticator(service, tmp_path, LOGIN).renew("reg.test", "x", [BEARER], None)
    assert service.requests[0].headers["Authorization"].startswith("Basic ")
    assert "Basic" not in repr(service.requests[0])


async def test_identity_token_buys_an_access_token(tmp_path: Path, autojump_clock: MockClock) -> None:
    service = TokenService()
    auth = authenticator(service, tmp_path, {"reg.test": {"identitytoken": "idt"}})
    await auth.renew("reg.test", "x", [BEARER], None)
    [request] = service.requests
    assert request.method == "POST"
    form = parse_qs((request.content or b"").decode())
    assert (form["grant_type"], form["refresh_token"]) == (["refresh_token"], ["idt"])
    assert "idt" not in repr(request)


async def test_registry_token_is_sent_as_it_is(tmp_path: Path) -> None:
    service = TokenService()
    auth = authenticator(service, tmp_path, {"reg.test": {"registrytoken": "rt"}})
    assert await auth.renew("reg.test", "x", [BEARER], None) == "Bearer rt"
    assert service.requests == []
    with pytest.raises(DeniedError):
        await auth.renew("reg.test", "x", [BEARER], "Bearer rt")


async def test_basic(tmp_path: Path) -> None:
    auth = authenticator(TokenService(), tmp_path, LOGIN)
    header = await auth.renew("reg.test", "x", ['Basic realm="x"'], None)
    assert header.startswith("Basic ")
    with pytest.raises(DeniedError, match=r"does not let bob \(from .*config.json\) pull x") as refused:
        await auth.renew("reg.test", "x", ['Basic realm="x"'], header)
    assert "hunter2" not in str(refused.value)


async def test_anonymous_where_a_login_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DeniedError, match=r"anonymous client pull x; .*`meshsat login reg.test`"):
        await authenticator(TokenService(), tmp_path).renew("reg.test", "x", ['Basic realm="x"'], None)


@pytest.mark.parametrize(
    ("challenge", "status", "reason"),
    [
        (BEARER, 401, "anonymous client"),
        (BEARER, 404, "gives no token: https://auth.test answered with status 404|answered 404"),
        ('Bearer realm="http://auth.test/token"', 200, "http://auth.test is not https"),
        ('Bearer service="x"', 200, "an address of another scheme"),
        ("Digest realm=x", 200, "offers digest, where basic or bearer is needed"),
        ("", 200, "offers nothing"),
    ],
)
async def test_logins_that_cannot_be(
    challenge: str, status: int, reason: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    service = TokenService(status=status)
    with pytest.raises(DeniedError, match=reason):
        await authenticator(service, tmp_path, {}).renew("reg.test", "x", [challenge], None)


async def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshsat.uplink.auth._SLOTS", 8)
    auth = authenticator(TokenService(), tmp_path, {"reg.test": {"registrytoken": "rt"}})
    for n in range(20):
        await auth.renew("reg.test", f"r{n}", [BEARER], None)
    assert len(auth._slots) == 8
