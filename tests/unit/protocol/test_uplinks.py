import random
from itertools import pairwise

import pytest

from meshsat.protocol import effects, events, wire
from meshsat.protocol.events import Fault
from meshsat.protocol.machine import Machine, Settings
from meshsat.protocol.uplinks import BACKOFF, PROBE_LIMIT, RETRY_AFTER_LIMIT, backoff
from tests.brain import Blob, Brain, key, led_by, only, peer, runs, sent


def ended(blob: Blob, fault: Fault, retry_after: float | None = None) -> events.UplinkEnded:
    return events.UplinkEnded(blob.digest, fault, "upstream said no", retry_after)


# --- ours ---


def test_an_uplink_that_fails_is_down_and_told_and_tried_again() -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.meet("a")
    brain.pull(blob)
    done = brain.feed(ended(blob, Fault.UNAVAILABLE))
    assert sent(done, wire.Uplink, "a") == [wire.Uplink(up=False)]
    assert not brain.machine.uplink_up
    done = brain.wait(BACKOFF[0] + 0.2, hearing=["a"])
    assert only(done, effects.ProbeUplink) == [effects.ProbeUplink()]
    assert not runs(done)
    done = brain.feed(events.UplinkProbed(up=True))
    assert sent(done, wire.Uplink, "a") == [wire.Uplink(up=True)]
    assert runs(done) == [(0, 4)]


def test_a_dead_uplink_is_looked_at_now_and_then() -> None:
    blob = led_by("me", [])
    brain = Brain(uplink=True)
    brain.pull(blob)
    brain.feed(ended(blob, Fault.UNAVAILABLE))
    tries = [brain.now]
    for _ in range(600):
        if only(brain.wait(0.1), effects.ProbeUplink):
            tries.append(brain.now)
            assert not only(brain.tick(), effects.ProbeUplink)  # one at a time
            assert not runs(brain.feed(events.UplinkProbed(up=False)))
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert max(gaps) < PROBE_LIMIT + 0.3  # somebody waits
    assert min(gaps[4:]) > PROBE_LIMIT - 0.3
    assert runs(brain.feed(events.UplinkProbed(up=True))) == [(0, 4)]
    brain.feed(blob.stored(0), ended(blob, Fault.UNAVAILABLE))  # it had worked again
    assert only(brain.wait(BACKOFF[0] + 0.2), effects.ProbeUplink)


def test_an_uplink_may_have_to_be_seen_to_work_first() -> None:
    settings = Settings(peer("me"), "me", uplink=True, uplink_up=False, settle=0.0)
    machine = Machine(settings, key("me").sign, random.Random(0))
    assert machine.handle(events.TimerExpired(), 1.0) == [effects.ProbeUplink()]
    assert not machine.uplink_up
    machine.handle(events.UplinkProbed(up=True), 2.0)
    assert machine.uplink_up


def test_a_dead_uplink_that_nobody_needs_is_looked_at_ever_more_rarely() -> None:
    brain = Brain(uplink=True)
    brain.feed(events.UpstreamAnswered("r", "a/b", "1", None, Fault.UNAVAILABLE, "no"))
    tries = []
    for _ in range(4000):
        if only(brain.wait(0.1), effects.ProbeUplink):
            tries.append(brain.now)
            brain.feed(events.UplinkProbed(up=False))
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert len(tries) < 14
    assert gaps[-1] >= BACKOFF[1]


@pytest.mark.parametrize(
    ("failures", "retry_after", "expected"),
    [(0, None, 1), (3, None, 8), (99, None, 60), (0, 30.0, 30), (0, 1e9, RETRY_AFTER_LIMIT), (6, 1.0, 60)],
)
def test_back_off(failures: int, retry_after: float | None, expected: float) -> None:
    assert backoff(failures, retry_after) == expected
