"""The token server: `GET /token?service=&scope=&account=` with Basic, and the same as OAuth2's `POST /token`.

Both are Docker's (`distribution`, "Token Authentication Specification", "OAuth2 Token Authentication"). Given
is the part of what was asked that the user may do, be it nothing: the registry then says what is missing.
No refresh tokens are given. Law: what is not a request for a token costs nothing but its reading.
"""

import json
from urllib.parse import parse_qsl

import trio

from meshsat.errors import InvalidInputError
from meshsat.http.asgi import Receive, Scope
from meshsat.registry.access import Access
from meshsat.registry.authorization import password_untrusted
from meshsat.registry.errors import Code, RefusedError
from meshsat.registry.login import Caller, Login
from meshsat.registry.request import Request
from meshsat.registry.rules import Action
from meshsat.registry.tokens import parse_scopes_untrusted, scope_of

FORM_LIMIT = 16 * 1024
FIELDS_LIMIT = 100
FORM_TIMEOUT = 10.0

Form = list[tuple[str, str]]


async def answer_token(access: Access, request: Request) -> bytes:
    """The body of the answer, JSON. Raises `RefusedError`."""
    scope, login = request.scope, access.login
    if login is None or not login.gives_tokens:
        raise RefusedError(404, Code.UNSUPPORTED, "no tokens are given here")
    if scope["method"] == "GET":
        form = parse_form_untrusted(scope["query_string"])
        caller = await login.caller(scope, None)
    elif scope["method"] == "POST":
        form = parse_form_untrusted(await _body_untrusted(request.receive))
        caller = await _by_form_untrusted(login, scope, dict(form))
    else:
        raise RefusedError(405, Code.UNSUPPORTED, "a token is had by GET or POST", [(b"allow", b"GET, POST")])
    if caller.grants is not None:
        raise login.challenge(scope, "a token is had by a password, not by another token")
    if caller.user is None and not access.lists(None):
        raise login.challenge(scope, "a credential is needed")
    try:
        asked = parse_scopes_untrusted(value for name, value in form if name == "scope")
    except InvalidInputError as fault:
        raise RefusedError(400, Code.UNSUPPORTED, str(fault)) from None
    grants = {
        scope_of(name): frozenset({"*"})
        if name is None
        else frozenset(one for one in actions if access.allowed(caller.user, Action(one), name) is not None)
        for name, actions in asked.items()
        if name is not None or access.lists(caller.user)
    }
    grants = {name: actions for name, actions in grants.items() if actions}
    token = login.make_token(caller.user, grants).decode("ascii")
    told = {
        "token": token,
        "access_token": token,
        "expires_in": int(login.token_ttl),
        "scope": " ".join(f"{name}:{','.join(sorted(actions))}" for name, actions in grants.items()),
    }
    return json.dumps(told).encode()


async def _by_form_untrusted(login: Login, scope: Scope, form: dict[str, str]) -> Caller:
    if form.get("grant_type") != "password":
        raise RefusedError(400, Code.UNSUPPORTED, "the grant type is not password: no other is given here")
    try:
        password = password_untrusted(form.get("username", ""), form.get("password", "").encode())
    except (InvalidInputError, UnicodeEncodeError):
        password = None
    if password is None:
        raise login.challenge(scope, "the user's name or the password is wrong")
    return await login.by_password(scope, password)


async def _body_untrusted(receive: Receive) -> bytes:
    body = bytearray()
    with trio.move_on_after(FORM_TIMEOUT):
        while len(body) <= FORM_LIMIT:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body += message.get("body", b"")
            if not message.get("more_body", False):
                return bytes(body)
    raise RefusedError(400, Code.UNSUPPORTED, f"no form of at most {FORM_LIMIT} bytes")


def parse_form_untrusted(raw: bytes) -> Form:
    """`application/x-www-form-urlencoded`. Raises `RefusedError`."""
    try:
        text = raw.decode("ascii")
        return parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_LIMIT, errors="strict")
    except ValueError:
        raise RefusedError(400, Code.UNSUPPORTED, "the request's fields are not a form's") from None
