"""`POST /api/v1/plan`: what a state would take, as lines of JSON; the last is the plan, or an error."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from starlette.responses import Response

from meshsat.errors import MeshsatError
from meshsat.http.asgi import Receive, Scope, Send, cancelled_by_disconnect
from meshsat.web.view import PlanStep

STATE_LIMIT = 4 * 1024 * 1024
"""Bytes of a desired state."""


class PlanResponse(Response):
    def __init__(self, steps: AsyncGenerator[PlanStep, None]) -> None:
        super().__init__(media_type="application/x-ndjson")
        self._steps = steps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def say(line: dict[str, Any]) -> None:
            body = json.dumps(line).encode() + b"\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})

        async with cancelled_by_disconnect(receive):
            try:
                async with aclosing(self._steps) as steps:
                    async for step in steps:
                        event = "progress" if step.plan is None else "plan"
                        await say({"event": event, **asdict(step)})
            except MeshsatError as fault:
                await say({"event": "error", "message": str(fault)})
            await send({"type": "http.response.body", "body": b""})
