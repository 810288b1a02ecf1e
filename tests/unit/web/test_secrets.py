"""The verbs about logins, as an operator's process calls them: who did it is recorded, and no secret comes back."""

import json
from pathlib import Path
from typing import Any

import pytest

from meshsat.http.asgi import PEER, Receive, Scope, Send
from meshsat.vault.vault import Vault
from meshsat.web.api import create_api
from tests.asgi_client import Answer, call
from tests.unit.web.test_api import View

SECRET = "correct horse battery staple"
LOGIN = {"registry": "Reg.test", "username": "bob", "secret": SECRET}


@pytest.fixture
def view(tmp_path: Path) -> View:
    view = View()
    view.vault = Vault(tmp_path, {})
    return view


async def ask(view: View, method: str, path: str, body: Any = None) -> Answer:
    api = create_api(view)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"] = {PEER: {"pid": 4711, "uid": 1000}}
        await api(scope, receive, send)

    raw = b"" if body is None else json.dumps(body).encode()
    answer = await call(app, method, path, body=raw)
    assert SECRET.encode() not in answer.body
    return answer


async def test_a_login_comes_goes_and_is_listed(view: View) -> None:
    answer = await ask(view, "POST", "/api/v1/login", LOGIN)
    assert (answer.status, answer.json) == (200, {"registry": "reg.test", "key_source": "key file"})
    login = view.vault.get("reg.test")
    assert login is not None
    assert login.secret == SECRET
    (told,) = (await ask(view, "GET", "/api/v1/secrets")).json["logins"]
    assert (told["registry"], told["username"], told["problem"]) == ("reg.test", "bob", None)
    assert (await ask(view, "POST", "/api/v1/logout", {"registry": "reg.test"})).json == {"known": True}
    assert (await ask(view, "POST", "/api/v1/logout", {"registry": "reg.test"})).json == {"known": False}
    assert [(entry.event, entry.actor.id, entry.actor.address) for entry in view.audit.entries] == [
        ("credential.create", "uid:1000", "pid:4711"),
        ("credential.delete", "uid:1000", "pid:4711"),
        ("credential.delete", "uid:1000", "pid:4711"),
    ]
    assert SECRET not in repr(view.audit.entries)


async def test_a_rotation(view: View) -> None:
    await ask(view, "POST", "/api/v1/login", LOGIN)
    answer = await ask(view, "POST", "/api/v1/secrets/rotate")
    assert answer.json == {"resealed": 1, "lost": [], "key_source": "key file"}
    assert view.audit.entries[-1].event == "credential.rotate"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"registry": "reg.test"},
        {**LOGIN, "registry": "no registry"},
        {**LOGIN, "username": ""},
        {**LOGIN, "secret": f"{SECRET}\n"},
        {**LOGIN, "secret": [SECRET]},
        {**LOGIN, "more": SECRET},
    ],
)
async def test_what_no_login_can_be_is_refused_without_its_secret(view: View, body: Any) -> None:
    assert (await ask(view, "POST", "/api/v1/login", body)).status == 400
    assert view.vault.logins() == []
    assert SECRET not in repr(view.audit.entries)


async def test_what_fails_is_recorded(view: View) -> None:
    view.vault = Vault(Path("/proc/nowhere"), {})
    assert (await ask(view, "POST", "/api/v1/login", LOGIN)).status == 500
    (entry,) = view.audit.entries
    assert (entry.event, entry.object, entry.outcome) == ("credential.create", "reg.test", "failure")
