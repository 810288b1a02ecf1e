"""The verbs about the desired state: bounded, recorded, and in plain words where it is refused."""

import pytest

from meshsat.errors import InvalidInputError, NotFoundError
from meshsat.fleet.state_file import FILE_LIMIT
from meshsat.web.arguments import BODY_LIMIT
from meshsat.web.states import STATE_LIMIT
from tests.unit.web.test_api import View, get, post


@pytest.fixture
def view() -> View:
    return View()


async def test_the_desired_state(view: View) -> None:
    answer = await get(view, "/api/v1/state")
    assert answer.status == 200
    assert (answer.json["revision"], answer.json["next_revision"], answer.json["revisions"]) == (7, 8, [6, 7])


async def test_a_state_file_is_brought_and_that_is_recorded(view: View) -> None:
    raw = b"x" * (2 * BODY_LIMIT)
    answer = await post(view, "/api/v1/state", raw)
    assert (answer.status, answer.json) == (200, {"revision": 7})
    assert view.offered == [raw]
    view.fault = InvalidInputError("revision 6 is older than revision 7")
    answer = await post(view, "/api/v1/state", b"{}")
    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid")
    assert [(one.object, one.outcome, one.reason) for one in view.audit.of("state.publish")] == [
        ("revision 7", "success", ""),
        ("state", "failure", "revision 6 is older than revision 7"),
    ]


async def test_endless_data_for_a_state_file(view: View) -> None:
    assert STATE_LIMIT == FILE_LIMIT
    answer = await post(view, "/api/v1/state", bytes(STATE_LIMIT + 1))
    assert answer.status == 400
    assert view.offered == []


async def test_a_state_file_is_taken_away(view: View) -> None:
    for query, asked in (("", None), ("?revision=", None), ("?revision=6", 6)):
        answer = await get(view, f"/api/v1/state/file{query}")
        assert (answer.status, answer.json["asked"]) == (200, asked)
    for text in ("-1", "x", "1e3", "%D9%A3", "9" * 17):
        assert (await get(view, f"/api/v1/state/file?revision={text}")).status == 400
    view.fault = NotFoundError("not kept")
    assert (await get(view, "/api/v1/state/file?revision=5")).status == 404
