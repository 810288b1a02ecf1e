"""The verbs about logins to upstream registries. Law: a secret comes in and never goes out."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from meshsat.audit.event import recorded
from meshsat.errors import InvalidInputError
from meshsat.http.who import operator_of
from meshsat.oci.reference import parse_registry_untrusted
from meshsat.vault.vault import as_json
from meshsat.web.arguments import parse_arguments_untrusted, read_body_untrusted
from meshsat.web.view import NodeView

T = TypeVar("T")


def secret_routes(view: NodeView) -> list[Route]:
    api = _Secrets(view)
    return [
        Route("/api/v1/login", api.login, methods=["POST"]),
        Route("/api/v1/logout", api.logout, methods=["POST"]),
        Route("/api/v1/secrets", api.secrets),
        Route("/api/v1/secrets/rotate", api.rotate, methods=["POST"]),
    ]


class _Secrets:
    def __init__(self, view: NodeView) -> None:
        self._view = view

    async def login(self, request: Request) -> Response:
        known = {"registry": str, "username": str, "secret": str}
        body = parse_arguments_untrusted(await read_body_untrusted(request), known)
        if body.keys() != known.keys():
            raise InvalidInputError("the body must have registry, username and secret")
        registry = parse_registry_untrusted(body["registry"])
        put = partial(self._view.vault.put, registry, body["username"], body["secret"])
        await self._do(request, "credential.create", registry, put)
        return JSONResponse({"registry": registry, "key_source": self._view.vault.key_source})

    async def logout(self, request: Request) -> Response:
        body = parse_arguments_untrusted(await read_body_untrusted(request), {"registry": str})
        registry = parse_registry_untrusted(body.get("registry"))
        forget = partial(self._view.vault.forget, registry)
        return JSONResponse({"known": await self._do(request, "credential.delete", registry, forget)})

    async def secrets(self, _: Request) -> Response:
        vault = self._view.vault
        return JSONResponse(as_json(vault.key_source, await trio.to_thread.run_sync(vault.logins)))

    async def rotate(self, request: Request) -> Response:
        vault = self._view.vault
        rotated = await self._do(request, "credential.rotate", "machine key", vault.rotate)
        return JSONResponse(
            {"resealed": rotated.resealed, "lost": list(rotated.lost), "key_source": vault.key_source}
        )

    async def _do(self, request: Request, event: str, about: str, change: Callable[[], T]) -> T:
        """Change the vault, and record who did."""
        with recorded(self._view.audit, event, operator_of(request.scope), about):
            return await trio.to_thread.run_sync(change)
