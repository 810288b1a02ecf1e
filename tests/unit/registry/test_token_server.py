"""The token server: what docker, containerd, podman and curl ask of it, and what each user gets."""

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import trio

from meshsat.config import RegistrySection
from meshsat.http.asgi import Receive, Scope, Send
from meshsat.registry.access import Access
from meshsat.registry.content import Name
from meshsat.registry.errors import RefusedError
from meshsat.registry.request import Request
from meshsat.registry.rules import Action
from meshsat.registry.token_server import FORM_LIMIT, answer_token
from tests.asgi_client import Answer, basic, call, request_scope
from tests.htpasswd import write_htpasswd

ADA = basic("ada", "secret")
SCOPE = "repository:team/app:pull,push"
RULES = [
    {"users": ["ada"], "repositories": ["site.internal/team/**"], "actions": ["pull", "push"]},
    {"users": ["*"], "repositories": ["site.internal/public/*"], "actions": ["pull"]},
]


class Server:
    def __init__(self, tmp_path: Path, **auth: Any) -> None:
        path = write_htpasswd(tmp_path / "users", {"ada": "secret", "bob": "hunter2"})
        section = {"auth": {"htpasswd": path, "scheme": "bearer", "rules": RULES, **auth}}
        self.access = Access(RegistrySection.model_validate(section))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            await request.answer(200, [], await answer_token(self.access, request))
        except RefusedError as refused:
            await request.refuse(refused)

    async def get(self, *headers: tuple[str, str], **query: str | list[str]) -> Answer:
        return await call(self, "GET", f"/token?{urlencode(query, doseq=True)}", headers)

    async def post(self, **form: str) -> Answer:
        return await call(self, "POST", "/token", body=urlencode(form).encode())

    async def may(self, answer: Answer, action: Action, repository: str) -> bool:
        """Whether the registry takes the token given."""
        header = ("Authorization", f"Bearer {answer.json['token']}")
        try:
            await self.access.authorize(
                request_scope("GET", "/v2/", [header]), action, Name(None, repository)
            )
        except RefusedError:
            return False
        return True


async def test_docker_asks_by_get(tmp_path: Path) -> None:
    server = Server(tmp_path)
    answer = await server.get(ADA, account="ada", client_id="docker", service="meshsat", scope=SCOPE)
    assert answer.status == 200
    assert answer.json["token"] == answer.json["access_token"]
    assert answer.json["expires_in"] == 300
    assert answer.json["scope"] == SCOPE
    assert await server.may(answer, Action.PUSH, "team/app")
    assert not await server.may(answer, Action.PUSH, "team/other")


async def test_containerd_asks_by_post(tmp_path: Path) -> None:
    server = Server(tmp_path)
    form = {"grant_type": "password", "service": "meshsat", "client_id": "containerd-client", "scope": SCOPE}
    answer = await server.post(username="ada", password="secret", **form)
    assert answer.status == 200
    assert await server.may(answer, Action.PULL, "team/app")
    assert (await server.post(username="ada", password="guess", **form)).status == 401
    assert (await server.post(**form)).status == 401


async def test_only_the_part_that_one_may_do_is_given(tmp_path: Path) -> None:
    server = Server(tmp_path)
    asked = ["repository:team/app:pull,push,delete", "repository:public/a:*", "repository:other:pull"]
    answer = await server.get(ADA, scope=asked)
    assert answer.json["scope"] == "repository:team/app:pull,push repository:public/a:pull"
    answer = await server.get(basic("bob", "hunter2"), scope=asked)
    assert answer.json["scope"] == "repository:public/a:pull"


async def test_a_login_asks_for_nothing(tmp_path: Path) -> None:
    server = Server(tmp_path)
    answer = await server.get(ADA, account="ada", client_id="docker", offline_token="true", service="meshsat")
    assert answer.status == 200
    assert "refresh_token" not in answer.json
    header = ("Authorization", f"Bearer {answer.json['token']}")
    await server.access.ping(request_scope("GET", "/v2/", [header]))


async def test_the_catalog_is_a_scope_of_its_own(tmp_path: Path) -> None:
    answer = await Server(tmp_path).get(ADA, scope="registry:catalog:*")
    assert answer.json["scope"] == "registry:catalog:*"


async def test_wrong_passwords_are_refused_and_told_basic(tmp_path: Path) -> None:
    server = Server(tmp_path)
    for headers in ((), (basic("ada", "guess"),), (basic("", ""),)):
        answer = await server.get(*headers, scope=SCOPE)
        assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
        assert answer["www-authenticate"] == 'Basic realm="meshsat"'


async def test_guessing_here_is_guessing(tmp_path: Path) -> None:
    server = Server(tmp_path)
    seen = {(await server.get(basic("ada", f"guess{number}"))).status for number in range(12)}
    assert seen == {401, 429}


async def test_nobody_gets_a_token_where_nobody_may_pull(tmp_path: Path) -> None:
    server = Server(tmp_path, anonymous=True)
    answer = await server.get(scope=SCOPE)
    assert answer.json["scope"] == "repository:team/app:pull"
    assert await server.may(answer, Action.PULL, "team/app")
    assert not await server.may(answer, Action.PUSH, "team/app")


async def test_a_token_buys_no_token(tmp_path: Path) -> None:
    server = Server(tmp_path)
    token = (await server.get(ADA, scope=SCOPE)).json["token"]
    assert (await server.get(("Authorization", f"Bearer {token}"), scope=SCOPE)).status == 401


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("PUT", "/token", b"", 405),
        ("GET", "/token?scope=repository:A:pull", b"", 400),
        ("GET", "/token?scope=%ff", b"", 400),
        ("GET", "/token?" + "&".join("a=b" for _ in range(101)), b"", 400),
        ("POST", "/token", b"", 400),
        ("POST", "/token", b"grant_type=refresh_token&refresh_token=x", 400),
        ("POST", "/token", b"a" * (FORM_LIMIT + 1), 400),
        ("POST", "/token", b"\xff", 400),
        ("POST", "/token", b"grant_type=password&username=a&password=%00", 401),
    ],
)
async def test_what_is_no_request_for_a_token(
    tmp_path: Path, method: str, target: str, body: bytes, status: int
) -> None:
    answer = await call(Server(tmp_path), method, target, [ADA], body)
    assert answer.status == status


async def test_a_form_that_does_not_come_is_not_waited_for(tmp_path: Path, autojump_clock: object) -> None:
    async def never() -> dict[str, Any]:
        await trio.sleep_forever()
        raise AssertionError

    async def send(message: object) -> None:
        raise AssertionError(message)

    server = Server(tmp_path)
    with pytest.raises(RefusedError, match="no form"):
        await answer_token(server.access, Request(request_scope("POST", "/token"), never, send))
