"""The node's API as ASGI applications: health and metrics for everybody, the verbs for the node's own user.

Laws: every body but `/metrics` is JSON, every error `{"error": {"code", "message"}}`. A pull belongs to its
request: when the client goes away, so does its interest. Who may call is decided by the socket: `create_api`
is for the Unix socket (mode 0600), `create_public_api` for TCP. docs/reference/http.md documents each route.
"""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import asdict
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from meshsat.audit.event import Told, recorded
from meshsat.errors import (
    ConfigError,
    DeniedError,
    InvalidInputError,
    MeshsatError,
    NotFoundError,
    UnavailableError,
)
from meshsat.http.asgi import Receive, Scope, Send, cancelled_by_disconnect
from meshsat.http.who import operator_of
from meshsat.oci.digest import Digest
from meshsat.oci.reference import Reference
from meshsat.status import as_json
from meshsat.trust.tokens import short_name
from meshsat.web.arguments import parse_arguments_untrusted, parse_nodes_untrusted, read_body_untrusted
from meshsat.web.planned import STATE_LIMIT, PlanResponse
from meshsat.web.secrets import secret_routes
from meshsat.web.states import state_routes
from meshsat.web.view import NodeView, PullEvent

LISTED = 1000
"""Blobs that a round of collection names, the largest."""
MAX_USES = 10_000
MAX_VALID_SECONDS = 366 * 24 * 3600.0

FAULTS: Sequence[tuple[type[MeshsatError], int, str]] = (
    (InvalidInputError, 400, "invalid"),
    (ConfigError, 400, "invalid"),
    (DeniedError, 403, "denied"),
    (NotFoundError, 404, "not_found"),
    (UnavailableError, 503, "unavailable"),
    (MeshsatError, 500, "failed"),
)
"""The first that fits tells the HTTP status and the code."""


def create_public_api(view: NodeView) -> Starlette:
    """`/healthz`, `/readyz`, `/metrics`."""
    return _application(_public_routes(_Api(view)))


def create_api(view: NodeView) -> Starlette:
    """The same, and the verbs under `/api/v1/`."""
    api = _Api(view)
    verbs = [
        Route("/api/v1/status", api.status),
        Route("/api/v1/peers", api.peers),
        Route("/api/v1/images", api.images),
        Route("/api/v1/desired", api.desired),
        Route("/api/v1/satellite", api.satellite),
        Route("/api/v1/shadow", api.shadow),
        Route("/api/v1/pull", api.pull, methods=["POST"]),
        Route("/api/v1/tag", api.tag, methods=["POST"]),
        Route("/api/v1/held", api.held, methods=["POST"]),
        Route("/api/v1/gc", api.gc, methods=["POST"]),
        Route("/api/v1/invite", api.invite, methods=["POST"]),
        Route("/api/v1/members", api.members),
        Route("/api/v1/revoke", api.revoke, methods=["POST"]),
        Route("/api/v1/rotate", api.rotate, methods=["POST"]),
        *secret_routes(view),
        Route("/api/v1/wan", api.wan),
        Route("/api/v1/plan", api.plan, methods=["POST"]),
        Route("/api/v1/reload", api.reload, methods=["POST"]),
        *state_routes(view),
    ]
    return _application([*_public_routes(api), *verbs])


def _public_routes(api: "_Api") -> list[Route]:
    return [
        Route("/healthz", api.healthz),
        Route("/readyz", api.readyz),
        Route("/metrics", api.metrics),
    ]


def _application(routes: list[Route]) -> Starlette:
    return Starlette(
        routes=routes,
        exception_handlers={
            MeshsatError: _on_fault,
            HTTPException: _on_http_error,
            Exception: _on_defect,
        },
    )


class _Api:
    def __init__(self, view: NodeView) -> None:
        self._view = view

    async def healthz(self, _: Request) -> Response:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        ready, reason = self._view.ready()
        return JSONResponse({"ready": ready, "reason": reason}, status_code=200 if ready else 503)

    async def metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._view.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def status(self, _: Request) -> Response:
        return JSONResponse(as_json(self._view.status()))

    async def peers(self, _: Request) -> Response:
        return JSONResponse({"peers": [as_json(peer) for peer in self._view.peers()]})

    async def desired(self, _: Request) -> Response:
        return JSONResponse(as_json(self._view.desired()))

    async def images(self, _: Request) -> Response:
        return JSONResponse({"images": [as_json(image) for image in self._view.images()]})

    async def satellite(self, _: Request) -> Response:
        status = self._view.satellite()
        if status is None:
            raise NotFoundError("this node follows no states of Harbor Satellite (fleet.harbor_satellite)")
        return JSONResponse(as_json(status))

    async def shadow(self, request: Request) -> Response:
        nodes = parse_nodes_untrusted(request.query_params.get("nodes"))
        report = self._view.shadow(nodes)
        if report is None:
            raise NotFoundError("this node is no shadow (fleet.harbor_satellite.shadow, or --shadow)")
        return JSONResponse(as_json(report))

    async def pull(self, request: Request) -> Response:
        body = parse_arguments_untrusted(await read_body_untrusted(request), {"reference": str, "pin": bool})
        if "reference" not in body:
            raise InvalidInputError('the body must be like {"reference": "docker.io/library/busybox:latest"}')
        reference = Reference.parse_untrusted(body["reference"])
        pin = body.get("pin", False)
        entry = self._recorded(request, "image.pin", str(reference)) if pin else nullcontext()
        return _PullResponse(self._view, str(reference), entry, pin=pin)

    async def tag(self, request: Request) -> Response:
        known = {"reference": str, "digest": str, "resolved_at": (int, float, type(None))}
        body = parse_arguments_untrusted(await read_body_untrusted(request), known)
        if not body.keys() >= {"reference", "digest"}:
            raise InvalidInputError(
                'the body must be like {"reference": "HOST/NAME:TAG", "digest": "sha256:..."}'
            )
        resolved_at = body.get("resolved_at")
        if resolved_at is not None and not 0 <= resolved_at < float("inf"):
            raise InvalidInputError("resolved_at: must be Unix seconds")
        reference = Reference.parse_untrusted(body["reference"])
        digest = Digest.parse_untrusted(body["digest"])
        with self._recorded(request, "tag.update", f"{reference} {digest}") as entry:
            told = await self._view.tag(
                reference, digest, None if resolved_at is None else float(resolved_at)
            )
            entry.reason = "" if told.taken else "what is known of it is younger, and stays"
        return JSONResponse({"taken": told.taken, "resolved_at": told.resolved_at})

    async def held(self, request: Request) -> Response:
        body = parse_arguments_untrusted(await read_body_untrusted(request), {"digests": list})
        asked = [Digest.parse_untrusted(text) for text in body.get("digests", [])]
        return JSONResponse({"held": [str(digest) for digest in asked if self._view.holds(digest)]})

    async def wan(self, _: Request) -> Response:
        return JSONResponse(as_json(self._view.wan()))

    async def plan(self, request: Request) -> Response:
        return PlanResponse(self._view.plan(await read_body_untrusted(request, STATE_LIMIT)))

    async def reload(self, request: Request) -> Response:
        parse_arguments_untrusted(await read_body_untrusted(request), {})
        with self._recorded(request, "configuration.reload", "configuration") as entry:
            done = await self._view.reload()
            entry.reason = f"changed: {', '.join(done.changed) or 'nothing'}"
        return JSONResponse(as_json(done))

    async def gc(self, request: Request) -> Response:
        body = parse_arguments_untrusted(await read_body_untrusted(request), {"dry_run": bool})
        dry_run = body.get("dry_run", False)
        if dry_run:
            collected = await self._view.gc(dry_run=True)
        else:
            with self._recorded(request, "storage.collect", "store") as entry:
                collected = await self._view.gc(dry_run=False)
                entry.reason = collected.refused or f"{collected.swept.freed} bytes freed"
        swept = collected.swept
        listed = sorted(swept.blobs.items(), key=lambda one: -one[1][0])[:LISTED]
        return JSONResponse(
            {
                "dry_run": dry_run,
                "refused": collected.refused,
                "freed_bytes": swept.freed,
                "images": sorted(swept.images),
                "blobs": len(swept.blobs),
                "partial_bytes": swept.partials,
                "largest": [
                    {"digest": str(digest), "size": size, "reason": reason}
                    for digest, (size, reason) in listed
                ],
            }
        )

    async def invite(self, request: Request) -> Response:
        known = {"uses": int, "valid_seconds": (int, float)}
        body = parse_arguments_untrusted(await read_body_untrusted(request), known)
        uses, valid_seconds = body.get("uses", 1), body.get("valid_seconds", 3600)
        if not 1 <= uses <= MAX_USES:
            raise InvalidInputError(f"uses: must be from 1 to {MAX_USES}")
        if not 0 < valid_seconds <= MAX_VALID_SECONDS:
            raise InvalidInputError(f"valid_seconds: must be above 0 and at most {MAX_VALID_SECONDS:.0f}")
        with self._recorded(request, "token.create", "token") as entry:
            token = await self._view.invite(uses=uses, valid_seconds=float(valid_seconds))
            entry.object = f"token {short_name(token)}"
            entry.reason = f"{uses} uses, {valid_seconds:.0f} s"
        return JSONResponse({"token": token})

    async def members(self, _: Request) -> Response:
        return JSONResponse({"members": [as_json(member) for member in self._view.passes.members()]})

    async def revoke(self, request: Request) -> Response:
        known = {"member": str, "site": str, "reason": str, "issued": bool}
        body = parse_arguments_untrusted(await read_body_untrusted(request), known)
        member, site = body.get("member"), body.get("site")
        with self._recorded(request, "pass.revoke", member or f"site {site}") as told:
            revoked = self._view.passes.revoke(
                member, site, body.get("reason", ""), issued=body.get("issued", False)
            )
            told.object, told.reason = revoked.whose, revoked.in_words()
        return JSONResponse({"whose": revoked.whose, "text": revoked.in_words()})

    async def rotate(self, request: Request) -> Response:
        parse_arguments_untrusted(await read_body_untrusted(request), {})
        with self._recorded(request, "key.rotate", self._view.status().peer) as told:
            peer = await self._view.passes.rotate()
            told.reason = f"now {peer}"
        return JSONResponse({"peer": peer})

    def _recorded(self, request: Request, event: str, about: str) -> AbstractContextManager[Told]:
        return recorded(self._view.audit, event, operator_of(request.scope), about)


class _PullResponse(Response):
    """A pull's progress as lines of JSON, each sent as it happens."""

    def __init__(
        self, view: NodeView, reference: str, entry: AbstractContextManager[Any], *, pin: bool
    ) -> None:
        """`entry`: of the audit log, entered around the pull."""
        super().__init__(media_type="application/x-ndjson")
        self._entry = entry
        self._view = view
        self._reference = reference
        self._pin = pin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def say(event: PullEvent) -> None:
            line = json.dumps(asdict(event)).encode() + b"\n"
            await send({"type": "http.response.body", "body": line, "more_body": True})

        async with cancelled_by_disconnect(receive):
            try:
                with self._entry:
                    async with aclosing(self._view.pull(self._reference, pin=self._pin)) as events:
                        async for event in events:
                            await say(event)
            except MeshsatError as fault:
                _, code = _classify(fault)
                await say(PullEvent("error", self._reference, message=str(fault), code=code))
            await send({"type": "http.response.body", "body": b""})


def _classify(fault: Exception) -> tuple[int, str]:
    return next((status, code) for kind, status, code in FAULTS if isinstance(fault, kind))


def _error(status: int, code: str, message: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=status, headers=headers)


async def _on_fault(_: Request, fault: Exception) -> Response:
    status, code = _classify(fault)
    return _error(status, code, str(fault))


async def _on_http_error(_: Request, error: Exception) -> Response:
    """Starlette's own: no such route, not that method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for that type alone
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "failed")
    return _error(error.status_code, code, error.detail, error.headers)


async def _on_defect(_: Request, __: Exception) -> Response:
    """A fault of ours: Starlette raises it on, and the server logs it."""
    return _error(500, "failed", "internal error; the node's log tells more")
