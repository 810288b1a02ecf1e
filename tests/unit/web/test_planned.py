"""A plan as lines of JSON."""

import json

from meshsat.errors import InvalidInputError, UnavailableError
from meshsat.fleet.planner import Plan
from meshsat.planning import Planned
from meshsat.web.api import create_api
from tests.asgi_client import call
from tests.unit.web.test_api import View, post


async def lines(view: View) -> list[dict[str, object]]:
    answer = await post(view, "/api/v1/plan", {"images": []})
    assert answer.status == 200
    return [json.loads(line) for line in answer.body.splitlines()]


async def test_progress_and_at_last_the_plan() -> None:
    view = View()
    view.steps = [Planned(0, 1), Planned(1, 1, Plan((), (), 1, 2, None, ("no",)), 7)]
    progress, last = await lines(view)
    assert (progress["event"], progress["known"], progress["of"]) == ("progress", 0, 1)
    assert (last["event"], last["manifest_bytes"]) == ("plan", 7)
    assert isinstance(last["plan"], dict)
    assert (last["plan"]["wan_bytes"], last["plan"]["refusals"]) == (1, ["no"])
    assert view.states == [b'{"images": []}']


async def test_a_fault_under_way_is_the_last_line() -> None:
    view = View()
    view.steps = [Planned(0, 1), UnavailableError("the node ends")]
    assert (await lines(view))[-1] == {"event": "error", "message": "the node ends"}


async def test_bytes_that_are_no_state_are_refused_at_once() -> None:
    view = View()
    view.plan_fault = InvalidInputError("desired state: images: is no list")
    answer = await post(view, "/api/v1/plan", {})
    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid")
    answer = await call(create_api(view), "POST", "/api/v1/plan", body=b" " * (4 * 1024 * 1024 + 1))
    assert answer.status == 400
