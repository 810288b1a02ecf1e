"""Max-min fairness, and that no byte is lost or made."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.simulator.fluid import Flow, Fluid, Link
from sim.simulator.queue import EventQueue

SLACK = 1 + 1e-6
Plan = tuple[list[int], list[tuple[tuple[int, ...], int, int]]]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Rates of links; flows as links, size, and the millisecond in which they begin."""
    rates = draw(st.lists(st.sampled_from([1, 2, 3, 10, 100]), min_size=1, max_size=7))
    path = st.lists(st.integers(0, len(rates) - 1), min_size=1, max_size=3, unique=True).map(tuple)
    flows = st.tuples(path, st.integers(1, 1000), st.integers(0, 5000))
    return rates, draw(st.lists(flows, min_size=1, max_size=12))


def fair(flows: list[Flow]) -> None:
    """No link is over its capacity, and each flow has a full link on which no other is faster."""
    for flow in flows:
        assert flow.rate > 0
        for link in flow.links:
            assert link.load <= link.rate * SLACK
        assert any(
            link.load * SLACK >= link.rate and all(other.rate <= flow.rate * SLACK for other in link.flows)
            for link in flow.links
        )


@given(plans())
@settings(max_examples=150, deadline=None)
def test_rates_are_max_min_fair_at_every_moment_and_bytes_are_conserved(plan: Plan) -> None:
    rates, wanted = plan
    queue = EventQueue()
    fluid = Fluid(queue)
    links = [fluid.add_link(str(number), rate) for number, rate in enumerate(rates)]
    flows: list[Flow] = []
    ended: list[Flow] = []

    def begin(path: tuple[int, ...], size: int) -> None:
        flow = fluid.start([links[number] for number in path], size, lambda: ended.append(flow))
        flows.append(flow)

    for path, size, start in wanted:
        queue.post(start / 1000, lambda path=path, size=size: begin(path, size))  # type: ignore[misc]
    while len(queue):
        queue.run(stop=lambda: True)
        if not fluid.planned:
            fair([flow for flow in flows if flow.alive])
    assert sorted(map(id, ended)) == sorted(map(id, flows))
    assert len(flows) == len(wanted)
    for number, link in enumerate(links):
        assert link.bytes == pytest.approx(sum(size for path, size, _ in wanted if number in path))
        assert not link.flows


def three() -> tuple[EventQueue, Fluid, list[Link]]:
    queue = EventQueue()
    fluid = Fluid(queue)
    return queue, fluid, [fluid.add_link(name, rate) for name, rate in (("a", 10), ("b", 10), ("c", 30))]


def test_two_flows_share_and_the_survivor_takes_all() -> None:
    queue, fluid, (a, _, c) = three()
    ends: list[float] = []
    fluid.start([a, c], 50, lambda: ends.append(queue.now))
    fluid.start([a, c], 100, lambda: ends.append(queue.now))
    queue.run()
    assert ends == pytest.approx([10.0, 15.0])


def test_what_is_pushed_goes_on_without_a_gap() -> None:
    queue, fluid, (a, b, _) = three()
    ends: list[float] = []

    def first() -> None:
        ends.append(queue.now)
        fluid.push(flow, 20, lambda: ends.append(queue.now))

    flow = fluid.start([a, b], 10, first)
    queue.run()
    assert ends == pytest.approx([1.0, 3.0])
    assert fluid.fillings == 1
    with pytest.raises(ValueError, match="has ended"):
        fluid.push(flow, 1, first)


def test_what_is_cancelled_counts_as_far_as_it_came() -> None:
    queue, fluid, (a, b, _) = three()
    other: list[float] = []
    flow = fluid.start([a], 100, pytest.fail)
    fluid.start([a, b], 100, lambda: other.append(queue.now))
    queue.run(4.0)
    assert fluid.cancel(flow) == pytest.approx(20)
    assert fluid.cancel(flow) == 0.0
    queue.run()
    assert other == pytest.approx([12.0])
    assert (a.bytes, b.bytes) == pytest.approx((120, 100))


def test_a_flow_cancelled_by_its_own_end_counts_once() -> None:
    queue, fluid, (a, _, _) = three()
    flow = fluid.start([a], 10, lambda: None)
    fluid.push(flow, 10, lambda: float(fluid.cancel(flow)))  # type: ignore[arg-type]
    queue.run()
    assert a.bytes == pytest.approx(20)
    assert not a.flows


def test_a_line_may_become_slower_and_faster() -> None:
    queue, fluid, (a, _, c) = three()
    ends: list[float] = []
    fluid.start([a, c], 100, lambda: ends.append(queue.now))
    fluid.start([c], 100, lambda: ends.append(queue.now))
    queue.run(2.0)  # 20 and 40 of them have passed
    fluid.set_rate(c, 2)
    queue.run(12.0)  # 10 and 10 more
    fluid.set_rate(c, 100)
    queue.run()
    assert ends == pytest.approx([12 + 50 / 90, 19.0])


def test_flows_apart_are_not_worked_out_again() -> None:
    queue, fluid, (a, b, c) = three()
    fluid.start([a], 1000, lambda: None)
    queue.run(1.0)
    before = fluid.filled
    fluid.start([b], 10, lambda: None)
    fluid.start([b, c], 10, lambda: None)
    queue.run(1.0)
    assert fluid.filled == before + 2


def test_changes_within_a_grain_are_worked_out_together() -> None:
    queue = EventQueue()
    fluid = Fluid(queue, grain=0.001)
    link = fluid.add_link("a", 1000)
    for time in (0.0, 0.0002, 0.0009, 0.005):
        queue.run(time)
        fluid.start([link], 100, lambda: None)
    queue.run(0.01)
    assert fluid.fillings == 2


def test_a_name_is_one_links() -> None:
    _, fluid, _ = three()
    with pytest.raises(ValueError, match="already"):
        fluid.add_link("a", 1)
