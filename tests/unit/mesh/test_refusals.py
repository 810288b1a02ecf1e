import structlog

from meshsat.mesh.refusals import LINES, MEMORY, QUIET, Refusals
from meshsat.metrics import Metrics
from tests.recorded import Recorded


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_each_stranger_is_counted_always_and_told_once_an_hour() -> None:
    clock, metrics = Clock(), Metrics()
    refusals = Refusals("tls", metrics, clock)
    with structlog.testing.capture_logs() as logs:
        for _ in range(100):
            refusals.refuse("10.0.0.9", "expired")
        refusals.refuse("10.0.0.8", "expired")
        refusals.refuse("10.0.0.9", "no pass")
        assert len(logs) == 3
        clock.now += QUIET + 1
        refusals.refuse("10.0.0.9", "expired", peer="12D3")
    assert len(logs) == 4
    assert logs[-1] == {
        "event": "stranger refused",
        "log_level": "warning",
        "plane": "tls",
        "source": "10.0.0.9",
        "reason": "expired",
        "peer": "12D3",
    }
    assert metrics.refused.labels("tls")._value.get() == 103


def test_a_crowd_fills_neither_log_nor_memory() -> None:
    clock = Clock()
    refusals = Refusals("tls", Metrics(), clock)
    with structlog.testing.capture_logs() as logs:
        for number in range(5000):
            refusals.refuse(f"host{number}", "no pass")
        assert len(logs) == LINES
        assert len(refusals._told) == MEMORY
        clock.now += QUIET + 1
        refusals.refuse("host0", "no pass")
    assert logs[-2]["refused"] == 5000 - LINES
    assert logs[-1]["source"] == "host0"


def test_a_stranger_is_recorded_as_often_as_it_is_told() -> None:
    audit = Recorded()
    refusals = Refusals("tls", Metrics(), Clock(), audit)
    for number in range(3 * LINES):
        for _ in range(3):
            refusals.refuse(f"10.0.0.{number}", "no handshake", detail="it hung up")
    assert len(audit.entries) == LINES
    first = audit.entries[0]
    assert (first.event, first.actor.address, first.outcome) == ("peer.auth", "10.0.0.0", "failure")
    assert first.reason == "no handshake: it hung up"
