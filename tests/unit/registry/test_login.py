"""Who sends a request: the challenge that each scheme gives, and where tokens are to be had."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from meshsat.config import RegistryAuth
from meshsat.errors import ConfigError
from meshsat.registry.errors import RefusedError
from meshsat.registry.login import NOBODY, Login
from meshsat.registry.passwords import FAILURES
from tests.asgi_client import basic, request_scope
from tests.htpasswd import write_htpasswd

NOW = 1_800_000_000.0
WANTED = "repository:team/app:pull"


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def login(tmp_path: Path, scheme: str = "bearer", clock: Clock | None = None, **more: Any) -> Login:
    path = write_htpasswd(tmp_path / "users", {"ada": "secret"})
    auth = RegistryAuth.model_validate({"htpasswd": path, "scheme": scheme, **more})
    return Login(auth, now=clock or Clock())


async def refused(
    which: Login, headers: Sequence[tuple[str, str]] = (), wanted: str | None = WANTED, **scope: Any
) -> RefusedError:
    with pytest.raises(RefusedError) as fault:
        await which.caller(request_scope("GET", "/v2/", headers, **scope), wanted)
    return fault.value


def asked_for(fault: RefusedError) -> str:
    (value,) = (value for name, value in fault.headers if name == b"www-authenticate")
    return value.decode()


async def test_without_a_credential_one_is_nobody(tmp_path: Path) -> None:
    for scheme in ("basic", "bearer"):
        caller = await login(tmp_path, scheme).caller(request_scope("GET", "/v2/"), None)
        assert caller is NOBODY


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
async def test_a_password_tells_who(tmp_path: Path, scheme: str) -> None:
    caller = await login(tmp_path, scheme).caller(
        request_scope("GET", "/v2/", [basic("ada", "secret")]), None
    )
    assert (caller.user, caller.grants, caller.shown) == ("ada", None, True)


async def test_a_wrong_password_is_challenged_as_the_scheme_has_it(tmp_path: Path) -> None:
    wrong = [basic("ada", "guess"), ("Host", "node:5000")]
    fault = await refused(login(tmp_path, "basic"), wrong)
    assert (fault.status, fault.code) == (401, "UNAUTHORIZED")
    assert asked_for(fault) == 'Basic realm="meshsat"'
    fault = await refused(login(tmp_path, "bearer"), wrong, scheme="https")
    assert asked_for(fault) == (
        'Bearer realm="https://node:5000/token",service="meshsat",scope="repository:team/app:pull"'
    )
    assert "guess" not in str(fault)


@pytest.mark.parametrize(
    ("host", "realm"),
    [
        (["node.lan"], "http://node.lan/token"),
        (["[fd00::1]:5000"], "http://[fd00::1]:5000/token"),
        ([], "http://192.0.2.1:5000/token"),
        (["a", "b"], "http://192.0.2.1:5000/token"),
        (['x",error="y'], "http://192.0.2.1:5000/token"),
        (["x/y"], "http://192.0.2.1:5000/token"),
    ],
)
async def test_tokens_are_to_be_had_where_the_client_found_us(
    tmp_path: Path, host: list[str], realm: str
) -> None:
    headers = [basic("ada", "guess"), *(("Host", one) for one in host)]
    fault = await refused(login(tmp_path), headers, None, server=("192.0.2.1", 5000))
    assert asked_for(fault) == f'Bearer realm="{realm}",service="meshsat"'


async def test_the_realm_can_be_set(tmp_path: Path) -> None:
    fault = await refused(login(tmp_path, realm="https://r.example/"), [basic("ada", "x")], None)
    assert asked_for(fault) == 'Bearer realm="https://r.example/token",service="meshsat"'


async def test_a_token_tells_who_and_for_what(tmp_path: Path) -> None:
    clock = Clock()
    which = login(tmp_path, clock=clock, token_ttl=60)
    grants = {"repository:team/app": frozenset({"pull"})}
    header = ("Authorization", f"Bearer {which.make_token('ada', grants).decode()}")
    caller = await which.caller(request_scope("GET", "/v2/", [header]), WANTED)
    assert (caller.user, caller.grants, caller.shown) == ("ada", grants, True)
    clock.now += 60
    fault = await refused(which, [header])
    assert asked_for(fault).endswith(f'scope="{WANTED}",error="invalid_token"')


async def test_a_token_of_another_process_or_for_a_user_who_left_is_none(tmp_path: Path) -> None:
    which = login(tmp_path)
    for token in (login(tmp_path).make_token("ada", {}), which.make_token("eve", {})):
        fault = await refused(which, [("Authorization", f"Bearer {token.decode()}")])
        assert 'error="invalid_token"' in asked_for(fault)
        assert token.decode() not in str(fault)


async def test_where_passwords_are_asked_for_no_token_is_taken(tmp_path: Path) -> None:
    which = login(tmp_path, "basic")
    token = which.make_token("ada", {}).decode()
    fault = await refused(which, [("Authorization", f"Bearer {token}")])
    assert asked_for(fault) == 'Basic realm="meshsat"'


async def test_nonsense_is_challenged(tmp_path: Path) -> None:
    for value in ("", "Basic", "Basic !", "Digest x"):
        assert (await refused(login(tmp_path), [("Authorization", value)])).status == 401


async def test_who_guesses_is_told_when_to_come_back(tmp_path: Path) -> None:
    which = login(tmp_path, "basic")
    for _ in range(FAILURES):
        assert (await refused(which, [basic("ada", "guess")], client=("192.0.2.7", 1))).status == 401
    fault = await refused(which, [basic("ada", "guess")], client=("192.0.2.7", 2))
    assert (fault.status, fault.code) == (429, "TOOMANYREQUESTS")
    ((name, seconds),) = fault.headers
    assert name == b"retry-after"
    assert 1 <= int(seconds) <= 6
    assert (await refused(which, [basic("ada", "guess")], client=("192.0.2.8", 1))).status == 401


def test_a_file_that_cant_be_used_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Login(RegistryAuth(htpasswd=tmp_path / "none"))


async def test_what_is_wrong_with_the_file_now_shows(tmp_path: Path) -> None:
    which = login(tmp_path)
    assert which.problem is None
    (tmp_path / "users").unlink()
    await which.caller(request_scope("GET", "/v2/", [basic("ada", "secret")]), None)
    assert which.problem is not None
