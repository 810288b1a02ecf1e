"""Limits and accounts on real connections to a registry."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from meshsat.config import QuotaSection, UplinkSection, UpstreamRegistry, WindowSection
from meshsat.errors import UplinkShutError
from meshsat.limits import Gate, Quota, WanLimits
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.uplink.accounts import Purpose
from meshsat.uplink.client import Uplink
from meshsat.uplink.shown import wan_status
from tests.images import random_bytes
from tests.unit.uplink.conftest import REPOSITORY
from tests.upstream import Upstream, Users

NOON = datetime(2026, 6, 10, 12, tzinfo=UTC).timestamp()
NIGHT = WindowSection(cron="0 2 * * *", duration=3600)


@asynccontextmanager
async def uplinked(up: Upstream, directory: Path | None = None, **settings: Any) -> AsyncIterator[Uplink]:
    section = UplinkSection(registries=(UpstreamRegistry(host=up.address, plain_http=True),), **settings)
    began = trio.current_time()

    def wall() -> float:
        return NOON + trio.current_time() - began

    async with Uplink(section, Metrics(), environ={}, wall_clock=wall, directory=directory) as uplink:
        yield uplink


async def read(uplink: Uplink, up: Upstream, data: bytes) -> int:
    got = 0
    async with uplink.blob(up.address, REPOSITORY, Digest.of(data), 0, len(data), len(data)) as pieces:
        async for piece in pieces:
            got += len(piece)
    return got


async def test_every_byte_is_some_images_for_some_purpose(data: bytes) -> None:
    with Upstream(users=Users(anonymous=True)) as up:
        up.add_image(REPOSITORY, "42", [data])
        async with uplinked(up) as uplink:
            await uplink.probe()
            manifest = await uplink.manifest(up.address, REPOSITORY, "42")
            await uplink.blob_size(up.address, REPOSITORY, manifest.blobs[1].digest)
            assert await read(uplink, up, data) == len(data)
        rows = uplink.meter.accounts.rows
        image = f"{up.address}/{REPOSITORY}"
        expected = {Purpose(image, kind) for kind in ("manifest", "size", "blob", "token")}
        assert rows.keys() == {*expected, Purpose(kind="probe")}
        blob = rows[Purpose(image, "blob")]
        assert len(data) * 1.0005 < blob.in_ < len(data) * 1.2
        assert blob.out > 100
        status = wan_status(uplink)
        assert status.enabled
        assert status.rows[0].image == image
        assert status.rows[0].purpose == "blob"
        spent = sum(row.bytes_in + row.bytes_out for row in status.rows)
        assert spent == uplink.meter.allowance.ledger.total
        assert all(row.day == row.month == row.bytes_in + row.bytes_out for row in status.rows)


async def test_a_quota_that_is_used_up_ends_what_is_under_way_and_begins_nothing() -> None:
    data = random_bytes(6_000_000)
    with Upstream() as up:
        up.add_image(REPOSITORY, "42", [data])
        async with uplinked(up, quota=QuotaSection(day=1_000_000)) as uplink:
            with pytest.raises(
                UplinkShutError, match=r"quota of the day .* opens at 2026-06-11 00:00:00 UTC"
            ):
                await read(uplink, up, data)
            spent = uplink.meter.allowance.ledger.total
            assert 1_000_000 <= spent < 3_000_000  # and what the kernel had taken in by then
            asked = len(up.requests)
            for again in (
                read(uplink, up, data),
                uplink.manifest(up.address, REPOSITORY, "42"),
                uplink.probe(),
            ):
                with pytest.raises(UplinkShutError):
                    await again
            assert len(up.requests) == asked
            assert uplink.meter.allowance.ledger.total == spent
            assert uplink.last_error is None, "the upstream is not at fault"


async def test_with_a_rate_a_quota_is_kept_to_what_windows_hold() -> None:
    data = random_bytes(1_500_000)
    with Upstream() as up:
        up.add_image(REPOSITORY, "42", [data])
        async with uplinked(up, rate=2_000_000, quota=QuotaSection(hour=1_000_000)) as uplink:
            with pytest.raises(UplinkShutError):
                await read(uplink, up, data)
            assert uplink.meter.allowance.ledger.total < 1_000_000 + 0.2 * 2_000_000


async def test_outside_windows_not_a_byte_passes(data: bytes) -> None:
    with Upstream() as up:
        up.add_image(REPOSITORY, "42", [data])
        async with uplinked(up, windows=(NIGHT,)) as uplink:
            with pytest.raises(
                UplinkShutError, match="no window of the uplink is open; opens at 2026-06-11 02:00"
            ):
                await uplink.manifest(up.address, REPOSITORY, "42")
            with pytest.raises(UplinkShutError):
                await uplink.probe()
            assert uplink.meter.allowance.ledger.total == 0
            assert up.requests == []
            uplink.set_section(UplinkSection(windows=(NIGHT,), urgent="clients"))
            await uplink.manifest(up.address, REPOSITORY, "42")


async def test_the_gate_is_told_at_first_and_when_it_changes() -> None:
    told: list[Gate] = []
    with Upstream() as up:
        async with uplinked(up) as uplink, trio.open_nursery() as nursery:
            uplink.on_gate = lambda verdict: told.append(verdict.gate)
            nursery.start_soon(uplink.run)
            await trio.testing.wait_all_tasks_blocked()
            assert told == [Gate.OPEN]
            for limits, gate in (
                (WanLimits(quota=Quota(day=1)), Gate.SHUT),
                (None, Gate.OPEN),
                (WanLimits(rate=5), Gate.OPEN),
            ):
                uplink.meter.allowance.spend(1)
                uplink.limit(limits)
                with trio.fail_after(5):
                    while told[-1] is not gate:
                        await trio.sleep(0.01)
            assert uplink.meter.budget.rate == 5
            value = uplink.meter.metrics.registry.get_sample_value
            assert value("meshsat_wan_gate") == 2.0
            assert value("meshsat_wan_quota_left_bytes", {"period": "day"}) is None
            assert told == [Gate.OPEN, Gate.SHUT, Gate.OPEN]
            nursery.cancel_scope.cancel()


async def test_what_was_spent_outlives_the_process(tmp_path: Path, data: bytes) -> None:
    with Upstream() as up:
        up.add_image(REPOSITORY, "42", [data])
        async with uplinked(up, tmp_path, quota=QuotaSection(month=10**9)) as uplink:
            await read(uplink, up, data)
            first = wan_status(uplink)
        async with uplinked(up, tmp_path, quota=QuotaSection(month=10**9)) as uplink:
            again = wan_status(uplink)
            assert again.rows == first.rows
            assert again.quotas[0].spent >= first.quotas[0].spent


def test_a_node_without_an_uplink_shows_so() -> None:
    assert not wan_status(None).enabled
