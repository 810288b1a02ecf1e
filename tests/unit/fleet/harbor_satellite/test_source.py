import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshsat.errors import ConfigError, DeniedError, UnavailableError
from meshsat.fleet.harbor_satellite.ports import Reply
from meshsat.fleet.harbor_satellite.source import HarborSatellite
from meshsat.fleet_sections import HarborSatelliteSection
from tests.images import build_image
from tests.unit.fleet.harbor_satellite.fakes import (
    CONFIG,
    HARBOR,
    INLINE,
    ROOT,
    FakeExchange,
    FakeLogins,
    Offers,
    group_place,
    surroundings,
)
from tests.unit.fleet.harbor_satellite.test_enlisting import TOKEN, registered
from tests.unit.fleet.harbor_satellite.test_following import ONE, OTHER, POS, Harbor

STATE = f"https://{HARBOR}/satellite/satellite-state/till-7/state:latest"


class Bench:
    def __init__(self, directory: Path, exchange: FakeExchange | None = None, **settings: Any) -> None:
        self.harbor, self.logins, self.offers = Harbor(), FakeLogins(), Offers()
        self.harbor.group("tills", ("library/pos", "42", ONE))
        self.harbor.root("tills")
        self.source = HarborSatellite(
            HarborSatelliteSection(**settings),
            directory,
            surroundings(self.harbor, self.logins, exchange),
            self.offers,
            unix=trio.current_time,
            rng=random.Random(1),
            threads=INLINE,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.source.run)
            yield
            nursery.cancel_scope.cancel()


async def test_it_follows_at_its_interval_with_jitter_and_asks_for_no_fresher_answers(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, state=STATE, poll=100.0)
    async with bench.running():
        await trio.sleep(1)
        assert bench.offers.last == [POS]
        status = bench.source.status()
        assert (status.name, status.state, status.in_force, status.poll) == ("till-7", str(ROOT), True, 100.0)
        assert status.images == (POS,)
        assert [(group.reference, group.artifacts) for group in status.groups] == [
            (str(group_place("tills")), 1)
        ]
        assert bench.source.problem is None
        await trio.sleep(1000)
    looks = bench.harbor.asked.count(str(ROOT))
    assert 8 <= looks <= 13
    assert set(bench.harbor.ages) == {75.0}


async def test_the_satellites_own_interval_counts_where_none_is_set(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, state=STATE)
    bench.harbor.documents[CONFIG] = b'{"app_config": {"state_replication_interval": "@every 1h"}}'
    async with bench.running():
        await trio.sleep(3000)
        assert bench.harbor.asked.count(str(ROOT)) <= 2
        assert bench.source.status().poll == 3600.0
        bench.harbor.documents[CONFIG] = b'{"app_config": {"state_replication_interval": "@every 1s"}}'
        await trio.sleep(5000)
        assert bench.source.status().poll == 10.0


async def test_a_signed_desired_state_comes_first(autojump_clock: MockClock, tmp_path: Path) -> None:
    bench = Bench(tmp_path, state=STATE, poll=10.0)
    signed = True
    bench.source.overruled = lambda: signed
    async with bench.running():
        await trio.sleep(100)
        assert bench.offers.all == []
        assert not bench.source.status().in_force
        assert "signed desired state is in force" in str(bench.source.problem)
        signed = False
        await trio.sleep(20)
        assert bench.offers.last == [POS]
        assert bench.source.status().in_force


async def test_a_shadow_offers_nothing_and_counts(autojump_clock: MockClock, tmp_path: Path) -> None:
    image = build_image([b"layer"])
    bench = Bench(tmp_path, state=STATE, poll=10.0, shadow=True)
    bench.harbor.images = {f"{HARBOR}/library/pos:42": image}
    bench.harbor.group("tills", ("library/pos", "42", image_digest(image.root)))
    async with bench.running():
        await trio.sleep(30)
    assert bench.offers.all == []
    report = bench.source.shadow(None)
    assert report is not None
    assert (report.once, report.nodes) == (image.size, 4)
    assert (bench.source.status().shadow, bench.source.status().in_force) == (True, False)
    assert Bench(tmp_path / "other", state=STATE).source.shadow(None) is None


def image_digest(text: str) -> Any:
    from meshsat.oci.digest import Digest

    return Digest.parse_untrusted(text)


async def test_it_registers_then_follows_and_after_a_restart_follows_at_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    settings = {"ground_control": "https://gc.example", "token_file": token, "poll": 10.0}
    bench = Bench(tmp_path, FakeExchange(lambda *_: registered()), **settings)
    async with bench.running():
        await trio.sleep(30)
    assert bench.offers.last == [POS]
    assert bench.source.status().registered_at is not None

    def down(*_: object) -> Reply:
        raise UnavailableError("down")

    again = Bench(tmp_path, FakeExchange(down), **settings)
    again.harbor.faults[ROOT] = UnavailableError("dark")
    async with again.running():
        await trio.sleep(1)
        assert again.offers.last == [POS]


async def test_a_refused_root_has_the_login_renewed(autojump_clock: MockClock, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)

    def answer(_method: str, path: str, *_: object) -> Reply:
        if path == "/sat/refresh":
            bench.harbor.faults.clear()
            return Reply(200, b'{"secret": "second"}')
        return registered() if "ztr" in path else Reply(200, b"")

    bench = Bench(
        tmp_path, FakeExchange(answer), ground_control="https://gc.example", token_file=token, poll=10.0
    )
    async with bench.running():
        await trio.sleep(30)
        bench.harbor.faults[ROOT] = DeniedError("expired")
        bench.harbor.group("tills", ("library/pos", "43", OTHER))
        await trio.sleep(60)
        assert bench.offers.last == [f"{HARBOR}/library/pos:43@{OTHER}"]
        assert bench.source.problem is None


async def test_a_registry_that_is_named_otherwise_is_told_unless_that_is_meant(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    for registry in (None, f"https://{HARBOR}"):
        bench = Bench(tmp_path, state=STATE, registry=registry)
        bench.harbor.url = "http://harbor.internal:8080"
        bench.harbor.root("tills")
        async with bench.running():
            await trio.sleep(5)
            assert bench.offers.last == [POS]
            assert ("harbor.internal:8080" in str(bench.source.problem)) is (registry is None)


def test_an_override_replaces_the_host_of_the_state_and_nonsense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fleet\.harbor_satellite"):
        Bench(tmp_path, state="ftp://h/x")
    with pytest.raises(ConfigError, match=r"fleet\.harbor_satellite"):
        Bench(tmp_path, state=STATE, registry="http://")
