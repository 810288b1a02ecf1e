import json

import pytest

from meshsat.errors import DeniedError, InvalidInputError, NotFoundError, UnavailableError
from meshsat.fleet.harbor_satellite.ground_control import (
    ACTIVITY_LIMIT,
    IMAGES_LIMIT,
    GroundControl,
    Report,
    encode_report,
    every,
)
from meshsat.fleet.harbor_satellite.ports import Reply, Vitals
from tests.unit.fleet.harbor_satellite.fakes import FakeExchange

REPORT = Report(
    "till-7",
    "in sync",
    90.0,
    "sha256:aa",
    "sha256:bb",
    0.25,
    1_790_000_000.5,
    Vitals(10, 20, 12.5, (("harbor.example/library/pos:42", "sha256:cc", 99),)),
)


def test_a_report_has_the_fields_that_ground_control_reads() -> None:
    assert json.loads(encode_report(REPORT)) == {
        "name": "till-7",
        "activity": "in sync",
        "state_report_interval": "@every 00h01m30s",
        "latest_state_digest": "sha256:aa",
        "latest_config_digest": "sha256:bb",
        "memory_used_bytes": 10,
        "storage_used_bytes": 20,
        "cpu_percent": 12.5,
        "request_created_time": "2026-09-21T14:13:20.500000Z",
        "last_sync_duration_ms": 250,
        "image_count": 1,
        "cached_images": [{"reference": "harbor.example/library/pos:42@sha256:cc", "size_bytes": 99}],
    }


def test_a_report_fits_into_ground_controls_columns() -> None:
    images = tuple((f"h.example/a{number}:1", "sha256:cc", 1) for number in range(IMAGES_LIMIT + 5))
    told = json.loads(encode_report(Report("n", "x" * 999, 30.0, "", "", 0.0, 0.0, Vitals(images=images))))
    assert len(told["activity"]) == ACTIVITY_LIMIT
    assert len(told["cached_images"]) == IMAGES_LIMIT
    assert told["image_count"] == IMAGES_LIMIT + 5


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(30.0, "@every 00h00m30s"), (0.2, "@every 00h00m01s"), (86400.0, "@every 24h00m00s")],
)
def test_an_interval(seconds: float, text: str) -> None:
    assert every(seconds) == text


async def test_a_registration_is_asked_for_with_the_token_in_the_path() -> None:
    auth = {"url": "https://h.example", "username": "robot$x", "password": "p"}
    body = json.dumps({"auth": auth, "state": "https://h.example/a:latest"}).encode()
    exchange = FakeExchange(lambda *_: Reply(200, body))
    registration = await GroundControl(exchange).register("token/with?odd#signs")
    assert registration.username == "robot$x"
    assert exchange.asked == [("GET", "/satellites/ztr/token%2Fwith%3Fodd%23signs", None, None)]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, DeniedError),
        (401, DeniedError),
        (302, DeniedError),
        (404, DeniedError),
        (429, UnavailableError),
        (500, UnavailableError),
        (503, UnavailableError),
    ],
)
async def test_what_a_status_means_and_that_no_token_is_told(status: int, kind: type[Exception]) -> None:
    control = GroundControl(FakeExchange(lambda *_: Reply(status, b"{}", 7.0)))
    with pytest.raises(kind) as fault:
        await control.register("0123456789abcdef")
    assert "0123456789abcdef" not in str(fault.value)
    assert str(status) in str(fault.value)
    if isinstance(fault.value, UnavailableError):
        assert fault.value.retry_after == 7.0


async def test_a_new_secret_and_a_ground_control_that_gives_none() -> None:
    exchange = FakeExchange(lambda *_: Reply(200, b'{"secret": "new"}'))
    assert await GroundControl(exchange).refresh("robot$x", "old") == "new"
    assert exchange.asked == [("POST", "/sat/refresh", "Basic cm9ib3QkeDpvbGQ=", b"")]
    for status in (404, 405):
        with pytest.raises(NotFoundError):
            await GroundControl(FakeExchange(lambda *_, s=status: Reply(s, b""))).refresh("robot$x", "old")
    with pytest.raises(InvalidInputError):
        await GroundControl(FakeExchange(lambda *_: Reply(200, b"<html>"))).refresh("robot$x", "old")


async def test_a_reports_answer_may_ask_for_something() -> None:
    exchange = FakeExchange(lambda *_: Reply(200, b'{"events": ["refresh_credentials"]}'))
    assert await GroundControl(exchange).report("robot$x", "s", REPORT) == {"refresh_credentials"}
    method, path, authorization, content = exchange.asked[0]
    assert (method, path, content) == ("POST", "/satellites/sync", encode_report(REPORT))
    assert authorization is not None
