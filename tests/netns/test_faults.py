"""Single losses in a real site: whoever lives ends with the right image, and the WAN pays for it once."""

import pytest

from sim.faults import FAULTS, SEGMENT, WAN_BOUND, Outcome, judge, run, show
from tests.tools import require_tool

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(200)]

SIZE = 24_000_000


@pytest.mark.parametrize("name", ["uplinked-killed", "quarter-killed", "wrong-bytes", "never-answers"])
def test_every_living_node_completes(name: str, namespaces_work: None) -> None:
    require_tool("docker-registry")
    fault = FAULTS[name]
    outcome = run(name, fault.world, fault.act, 1, SIZE, fault.world.limit_seconds(SIZE))
    assert outcome.failures == ()
    assert outcome.wan_bytes <= WAN_BOUND * outcome.size + SEGMENT


def _outcome(seconds: float, *, wan_bytes: int = 100, outage: float = 0.0, failed: bool = False) -> Outcome:
    return Outcome("x", 1, 1.0, seconds, outage, wan_bytes, 100, ("n1: late",) if failed else ())


def test_a_verdict_takes_the_outage_off_and_every_run_counts() -> None:
    assert judge("x", [_outcome(23.0, outage=10.0), _outcome(12.0)], 10.0).holds
    assert not judge("x", [_outcome(13.1), _outcome(10.0)], 10.0).holds
    assert not judge("x", [_outcome(10.0, failed=True)], 10.0).holds
    assert not judge("x", [_outcome(10.0, wan_bytes=2 * SEGMENT)], 10.0).holds
    assert "BROKEN" in show(judge("x", [_outcome(13.1)], 10.0))
