"""The verbs about the desired state: what holds, and a state file in and out."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from meshsat.audit.event import recorded
from meshsat.errors import InvalidInputError
from meshsat.http.who import operator_of
from meshsat.status import as_json
from meshsat.web.arguments import read_body_untrusted
from meshsat.web.view import NodeView

STATE_LIMIT = 16 * 1024 * 1024
"""Bytes of a state file (`fleet.state_file.FILE_LIMIT`)."""


def state_routes(view: NodeView) -> list[Route]:
    api = _States(view)
    return [
        Route("/api/v1/state", api.state),
        Route("/api/v1/state", api.offer, methods=["POST"]),
        Route("/api/v1/state/file", api.file),
    ]


class _States:
    def __init__(self, view: NodeView) -> None:
        self._view = view

    async def state(self, _: Request) -> Response:
        held = self._view.desired_state
        return JSONResponse({**as_json(held.status()), "next_revision": held.next_revision})

    async def offer(self, request: Request) -> Response:
        raw = await read_body_untrusted(request, STATE_LIMIT)
        with recorded(self._view.audit, "state.publish", operator_of(request.scope), "state") as entry:
            revision = await self._view.desired_state.offer_untrusted(raw)
            entry.object = "roots" if revision is None else f"revision {revision}"
        return JSONResponse({"revision": revision})

    async def file(self, request: Request) -> Response:
        text = request.query_params.get("revision", "")
        if text and not (text.isascii() and text.isdigit() and len(text) <= 16):
            raise InvalidInputError("revision: must be a whole number")
        raw = await self._view.desired_state.file(int(text) if text else None)
        return Response(raw, media_type="application/json")
