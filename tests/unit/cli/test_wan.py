import json

from meshsat.status import QuotaStatus, WanRow, WanStatus
from tests.unit.cli.conftest import FakeNode, Meshsat


def test_limits_and_accounts_on_one_screen(meshsat: Meshsat, node: FakeNode) -> None:
    node.wan_status = WanStatus(
        enabled=True,
        gate="shut",
        reason="the uplink's quota of the day (1000000000 bytes) is spent",
        opens_at=1_781_136_000.0,
        rate=250_000,
        measured_rate=240_000,
        quotas=(QuotaStatus("day", 10**9, 10**9, 0, 1_781_136_000.0, "Europe/Berlin"),),
        since=1_781_000_000.0,
        rows=(WanRow("up.example/library/pos", "blob", 40_100_000, 1_234, 9_000, 40_101_234),),
    )
    shown = meshsat("wan", "--data-dir", node.data_dir).out
    for figure in (
        "shut: the uplink's quota of the day (1000000000 bytes) is spent; opens at 2026-06-1",
        "at most 250.0 kB/s",
        "240.0 kB/s",
        "0 B of 1.0 GB left, the day ends at 2026-06-1",
        "(Europe/Berlin)",
        "up.example/library/pos  blob     40.1 MB  1.2 kB  9.0 kB     40.1 MB",
    ):
        assert figure in shown


def test_without_an_uplink(meshsat: Meshsat, node: FakeNode) -> None:
    assert meshsat("wan", "--data-dir", node.data_dir).out.split() == ["uplink", "off"]


def test_json_is_the_snapshot(meshsat: Meshsat, node: FakeNode) -> None:
    told = json.loads(meshsat("wan", "--data-dir", node.data_dir, "--json").out)
    assert (told["enabled"], told["rows"]) == (False, [])
