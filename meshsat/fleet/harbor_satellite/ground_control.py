"""Ground Control's endpoints for satellites, as a client.

    GET  /satellites/ztr/TOKEN   registration: a login and where the root state is; the token is good for once
    POST /satellites/sync        a report; the answer may ask for a new login
    POST /sat/refresh            a new secret for the login (its main branch; v0.0.4 answers 404)

Laws: a token stands in the path, so no path is ever told; what is sent and asked is bounded; an answer means
what its status says, and a redirect is no answer.
"""

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from meshsat.errors import DeniedError, NotFoundError, UnavailableError
from meshsat.fleet.harbor_satellite.ports import Exchange, Reply, Vitals
from meshsat.fleet.harbor_satellite.shapes import (
    Registration,
    parse_refresh_untrusted,
    parse_registration_untrusted,
    parse_report_answer_untrusted,
)

IMAGES_LIMIT = 1000
"""Images that are listed in a report."""
ACTIVITY_LIMIT = 255
"""Characters: what Ground Control's column holds."""
_PASSING = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Report:
    name: str
    activity: str
    interval: float
    """Seconds."""
    state_digest: str
    config_digest: str
    took: float
    """Seconds of the last look at the states."""
    at: float
    """Unix seconds."""
    vitals: Vitals


class GroundControl:
    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def register(self, token: str) -> Registration:
        """Raises `DeniedError` (the token is not good), `UnavailableError`, `InvalidInputError`."""
        reply = await self._exchange("GET", f"/satellites/ztr/{quote(token, safe='')}")
        _judge(reply, "the registration; is the token used up, or older than a day?")
        return parse_registration_untrusted(reply.body)

    async def refresh(self, username: str, secret: str) -> str:
        """The login's new secret; the old one is good no more.

        Raises `NotFoundError` where this Ground Control can't do that, else as `register`."""
        reply = await self._exchange("POST", "/sat/refresh", _basic(username, secret), b"")
        if reply.status in (404, 405):
            raise NotFoundError("this Ground Control does not renew logins (it has no POST /sat/refresh)")
        _judge(reply, "a new login")
        return parse_refresh_untrusted(reply.body)

    async def report(self, username: str, secret: str, report: Report) -> frozenset[str]:
        """What Ground Control asks for. Raises as `register`."""
        reply = await self._exchange(
            "POST", "/satellites/sync", _basic(username, secret), encode_report(report)
        )
        _judge(reply, "a report")
        return parse_report_answer_untrusted(reply.body)


def encode_report(report: Report) -> bytes:
    images = report.vitals.images[:IMAGES_LIMIT]
    body: dict[str, Any] = {
        "name": report.name,
        "activity": report.activity[:ACTIVITY_LIMIT],
        "state_report_interval": every(report.interval),
        "latest_state_digest": report.state_digest,
        "latest_config_digest": report.config_digest,
        "memory_used_bytes": report.vitals.memory_used,
        "storage_used_bytes": report.vitals.storage_used,
        "cpu_percent": report.vitals.cpu_percent,
        "request_created_time": datetime.fromtimestamp(report.at, UTC).isoformat().replace("+00:00", "Z"),
        "last_sync_duration_ms": round(report.took * 1000),
        "image_count": len(report.vitals.images),
    }
    if images:
        body["cached_images"] = [
            {"reference": f"{name}@{digest}", "size_bytes": size} for name, digest, size in images
        ]
    return json.dumps(body).encode()


def every(seconds: float) -> str:
    """An interval as Ground Control takes it: whole seconds."""
    whole = max(1, round(seconds))
    return f"@every {whole // 3600:02}h{whole // 60 % 60:02}m{whole % 60:02}s"


def _judge(reply: Reply, what: str) -> None:
    status = reply.status
    if status == 200:
        return
    if status in _PASSING or status >= 500:
        raise UnavailableError(f"Ground Control answered {status} to {what}", reply.retry_after)
    if 300 <= status < 400:
        raise DeniedError(
            f"Ground Control redirects {what} ({status}), which is not followed: set its final address"
        )
    raise DeniedError(f"Ground Control refuses {what} ({status})")


def _basic(username: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{secret}".encode()).decode()
