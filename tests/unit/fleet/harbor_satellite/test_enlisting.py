import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from meshsat.errors import ConfigError, DeniedError, StorageError, UnavailableError
from meshsat.fleet.harbor_satellite.enlisting import (
    LONGEST_PAUSE,
    REFUSED_PAUSE,
    Doubt,
    Enlisting,
    hash_of,
    read_token,
)
from meshsat.fleet.harbor_satellite.following import Following
from meshsat.fleet.harbor_satellite.keeping import load
from meshsat.fleet.harbor_satellite.ports import Reply
from meshsat.fleet_sections import HarborSatelliteSection
from tests.unit.fleet.harbor_satellite.fakes import (
    HARBOR,
    INLINE,
    ROOT,
    FakeArtifacts,
    FakeExchange,
    FakeLogins,
    Login,
    Offers,
    surroundings,
)

TOKEN, NEXT = "0123456789abcdef", "fedcba9876543210"


def registered(secret: str = "first", url: str = f"https://{HARBOR}") -> Reply:
    auth = {"url": url, "username": "robot$till-7", "password": secret}
    state = f"{url}/satellite/satellite-state/till-7/state:latest"
    return Reply(200, json.dumps({"auth": auth, "state": state}).encode())


class Bench:
    def __init__(self, directory: Path, answer: Callable[..., Reply], **settings: Any) -> None:
        self.directory = directory
        self.token_file = directory / "token"
        self.artifacts, self.logins, self.offers = FakeArtifacts(), FakeLogins(), Offers()
        self.exchange = FakeExchange(answer)
        self.section = HarborSatelliteSection(
            ground_control="https://gc.example", token_file=self.token_file, **settings
        )
        self.following = Following(
            self.artifacts, directory, self.offers, unix=trio.current_time, threads=INLINE
        )
        self.enlisting = Enlisting(
            self.following,
            surroundings(self.artifacts, self.logins, self.exchange),
            self.section,
            None,
            unix=trio.current_time,
            rng=random.Random(1),
            threads=INLINE,
        )

    def write_token(self, token: str) -> None:
        self.token_file.write_text(token)
        self.token_file.chmod(0o600)

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _, _ in self.exchange.asked]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.enlisting.run)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    def make(answer: Callable[..., Reply], token: str | None = TOKEN, **settings: Any) -> Bench:
        made = Bench(tmp_path, answer, **settings)
        if token is not None:
            made.write_token(token)
        return made

    return make


async def test_it_registers_once_and_remembers_that(
    autojump_clock: MockClock, bench: Callable[..., Bench]
) -> None:
    one = bench(lambda *_: registered())
    with capture_logs() as logs:
        async with one.running():
            await trio.sleep(3600)
    assert one.paths == [f"/satellites/ztr/{TOKEN}"]
    assert one.logins.kept == {HARBOR: Login("robot$till-7", "first")}
    assert one.following.place == ROOT
    assert one.enlisting.trouble is None
    enlisted = load(one.directory).enlisted
    assert enlisted is not None
    assert (enlisted.place, enlisted.token) == (ROOT, hash_of(TOKEN))
    told = json.dumps(logs) + (one.directory / "fleet" / "satellite.json").read_text()
    assert TOKEN not in told
    assert "first" not in told


async def test_tries_are_spaced_and_wait_as_long_as_they_are_asked_to(
    autojump_clock: MockClock, bench: Callable[..., Bench]
) -> None:
    replies = [Reply(503, b""), Reply(500, b""), Reply(429, b"", 120.0), Reply(503, b"", 1e9)]
    one = bench(lambda *_: replies.pop(0) if replies else registered())
    async with one.running():
        await trio.sleep(3 * 3600)
    waits = [
        after - before for before, after in zip(one.exchange.times, one.exchange.times[1:], strict=False)
    ]
    assert [4 < waits[0] < 7, 8 < waits[1] < 13, 107 < waits[2] < 133, 3200 < waits[3] < 4000] == [True] * 4
    assert len(one.exchange.times) == 5
    assert one.following.place == ROOT


async def test_a_line_that_is_down_costs_a_try_each_ten_minutes(
    autojump_clock: MockClock, bench: Callable[..., Bench]
) -> None:
    def down(*_: object) -> Reply:
        raise UnavailableError("cannot be reached")

    one = bench(down)
    async with one.running():
        await trio.sleep(86400)
    assert 86400 / LONGEST_PAUSE / 1.2 <= len(one.exchange.times) <= 86400 / LONGEST_PAUSE * 1.2 + 10
    assert one.enlisting.trouble == "cannot be reached"


async def test_a_refused_token_is_not_hammered_and_a_new_one_is_seen_soon(
    autojump_clock: MockClock, bench: Callable[..., Bench]
) -> None:
    one = bench(lambda _method, path, *_: registered() if path.endswith(NEXT) else Reply(400, b""))
    async with one.running():
        await trio.sleep(100)
        assert len(one.paths) == 1
        assert "used up, or older than a day" in str(one.enlisting.trouble)
        one.write_token(NEXT)
        await trio.sleep(60)
        assert one.paths[-1].endswith(NEXT)
        assert one.enlisting.trouble is None


async def test_a_token_that_comes_late_and_one_that_is_open_to_everybody(
    autojump_clock: MockClock, bench: Callable[..., Bench]
) -> None:
    one = bench(lambda *_: registered(), token=None)
    async with one.running():
        await trio.sleep(100)
        assert "not registered yet" in str(one.enlisting.trouble)
        one.write_token(TOKEN)
        one.token_file.chmod(0o644)
        await trio.sleep(REFUSED_PAUSE * 1.2)
        assert "chmod 600" in str(one.enlisting.trouble)
        one.token_file.chmod(0o600)
        await trio.sleep(REFUSED_PAUSE * 1.2)
        assert one.following.place == ROOT


async def test_a_login_that_is_refused_is_renewed(
    autojump_clock: MockClock, bench: Callable[..., Bench]
) -> None:
    def answer(_method: str, path: str, *_: object) -> Reply:
        return Reply(200, b'{"secret": "second"}') if path == "/sat/refresh" else registered()

    one = bench(answer)
    async with one.running():
        await trio.sleep(10)
        one.artifacts.faults[ROOT] = DeniedError("expired")
        one.enlisting.doubt(Doubt.REFUSED)
        await trio.sleep(10)
    assert one.paths[1:] == ["/sat/refresh"]
    assert one.logins.kept[HARBOR].secret == "second"
    assert one.enlisting.trouble is None


async def test_a_login_is_not_renewed_where_harbor_takes_it(
    autojump_clock: MockClock, bench: Callable[..., Bench]
) -> None:
    """The refusal was a peer's, or that of a rule of this node."""
    one = bench(lambda *_: registered())
    one.artifacts.documents[ROOT] = b"there"
    async with one.running():
        await trio.sleep(10)
        one.enlisting.doubt(Doubt.REFUSED)
        await trio.sleep(10)
        assert len(one.paths) == 1
        assert one.artifacts.probes == [ROOT]
        one.artifacts.faults[ROOT] = UnavailableError("the line is down")
        one.enlisting.doubt(Doubt.REFUSED)
        await trio.sleep(100)
        assert len(one.paths) == 1


async def test_a_ground_control_that_renews_nothing_is_asked_once_and_a_new_token_helps(
    autojump_clock: MockClock, bench: Callable[..., Bench]
) -> None:
    def answer(_method: str, path: str, *_: object) -> Reply:
        return Reply(404, b"") if path == "/sat/refresh" else registered(path[-4:])

    one = bench(answer)
    one.artifacts.faults[ROOT] = DeniedError("expired")
    async with one.running():
        await trio.sleep(10)
        one.enlisting.doubt(Doubt.REFUSED)
        await trio.sleep(4000)
        assert one.paths.count("/sat/refresh") == 1
        assert "put the token that it gives into" in str(one.enlisting.trouble)
        one.write_token(NEXT)
        await trio.sleep(60)
        assert one.logins.kept[HARBOR].secret == "3210"
        assert one.enlisting.trouble is None


async def test_a_shadow_renews_nothing(autojump_clock: MockClock, bench: Callable[..., Bench]) -> None:
    one = bench(lambda *_: registered(), shadow=True)
    one.artifacts.faults[ROOT] = DeniedError("expired")
    async with one.running():
        await trio.sleep(10)
        one.enlisting.doubt(Doubt.REFUSED)
        await trio.sleep(4000)
    assert len(one.paths) == 1
    assert "in shadow it is not renewed" in str(one.enlisting.trouble)


async def test_a_trouble_that_passes_by_itself_is_forgotten(
    autojump_clock: MockClock, bench: Callable[..., Bench]
) -> None:
    one = bench(lambda *_: registered(), shadow=True)
    one.artifacts.faults[ROOT] = DeniedError("expired")
    async with one.running():
        await trio.sleep(10)
        one.enlisting.doubt(Doubt.REFUSED)
        await trio.sleep(10)
        one.enlisting.trust()
        await trio.sleep(REFUSED_PAUSE * 1.2)
    assert one.enlisting.trouble is None


async def test_a_login_that_cannot_be_kept_is_told(
    autojump_clock: MockClock, bench: Callable[..., Bench]
) -> None:
    one = bench(lambda *_: registered())
    one.logins.fault = StorageError("the disk is full")
    async with one.running():
        await trio.sleep(10)
    assert one.enlisting.trouble == "the disk is full"
    assert one.following.place is None


async def report(one: Bench, seconds: float) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.enlisting.run)
        nursery.start_soon(one.enlisting.report, lambda: 30.0)
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()


async def test_reports_tell_what_is_in_force_and_are_jittered(
    autojump_clock: MockClock, bench: Callable[..., Bench]
) -> None:
    one = bench(lambda _method, path, *_: registered() if "ztr" in path else Reply(200, b""))
    await report(one, 300)
    sent = [content for _, path, _, content in one.exchange.asked if path == "/satellites/sync"]
    assert 8 <= len(sent) <= 11
    told = json.loads(sent[0] or b"")
    assert (told["name"], told["memory_used_bytes"], told["state_report_interval"]) == (
        "till-7",
        1,
        "@every 00h00m30s",
    )
    gaps = {
        round(after - before, 3)
        for before, after in zip(one.exchange.times[1:], one.exchange.times[2:], strict=False)
    }
    assert len(gaps) > 3
    assert one.enlisting.report_trouble is None


async def test_reports_that_are_not_taken_become_rare_and_harm_nothing(
    autojump_clock: MockClock, bench: Callable[..., Bench]
) -> None:
    one = bench(lambda _method, path, *_: registered() if "ztr" in path else Reply(429, b""))
    await report(one, 3600)
    assert len(one.exchange.times) < 12
    assert "no report reaches" in str(one.enlisting.report_trouble)
    assert one.enlisting.trouble is None


async def test_ground_control_may_ask_for_a_renewal(
    autojump_clock: MockClock, bench: Callable[..., Bench]
) -> None:
    def answer(_method: str, path: str, *_: object) -> Reply:
        if path == "/sat/refresh":
            return Reply(200, b'{"secret": "second"}')
        first = len(one.exchange.asked) < 3
        return (
            registered()
            if "ztr" in path
            else Reply(200, b'{"events": ["refresh_credentials"]}' if first else b"")
        )

    one = bench(answer)
    await report(one, 100)
    assert one.logins.kept[HARBOR].secret == "second"
    assert one.paths.count("/sat/refresh") == 1
    assert one.artifacts.probes == []


def test_a_token_is_read_or_the_fault_is_told(tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert read_token(path) is None
    path.write_text("short")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="8 to 512"):
        read_token(path)
    path.write_text(TOKEN + "\n")
    assert read_token(path) == TOKEN
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path)
