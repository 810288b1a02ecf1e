"""The order of the demo, with a site that is told what to do in place of real nodes."""

import io
from pathlib import Path

import pytest
import trio
from rich.console import Console

from meshsat.demo import run
from meshsat.demo.place import DemoError
from meshsat.demo.report import Result
from meshsat.demo.run import Options, run_demo
from meshsat.demo.screen import Screen
from tests.unit.demo import fake_site
from tests.unit.demo.fake_site import FakeSite

OPTIONS = Options(nodes=3, size=200_000, uplink=8_000_000)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without docker-registry and skopeo, and a site of fakes."""
    monkeypatch.setattr("shutil.which", lambda _program: None)
    monkeypatch.setattr(run, "Site", FakeSite)
    monkeypatch.setattr(fake_site, "fault", None)


class Ran:
    def __init__(self) -> None:
        self.out = io.StringIO()
        self.screen = Screen(Console(file=self.out, width=200))
        self.results: list[Result] = []

    async def demo(self, options: Options = OPTIONS) -> None:
        await run_demo(options, self.screen, self.results.append)


async def test_the_wan_is_measured_between_the_nodes_and_the_upstream() -> None:
    ran = Ran()
    await ran.demo()
    (result,) = ran.results
    assert set(result.node_seconds) == {"node-1", "node-2", "node-3"}
    assert result.image_bytes <= result.wan_bytes <= result.image_bytes + 10_000
    assert (result.ok, result.client, result.client_node) == (True, "meshsat's own client", "node-3")
    assert "x the limit" in ran.out.getvalue()


async def test_progress_is_shown_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("meshsat.demo.place.PARENT_LIMIT", 1000)
    ran = Ran()
    await ran.demo()
    assert "node-1 100 %  node-2 100 %  node-3 100 %" in ran.out.getvalue()
    assert list(tmp_path.iterdir()) == []


async def test_a_node_that_fails_ends_the_demo_without_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_site, "fault", DemoError("node-2 could not pull: no peer", "its log"))
    ran = Ran()
    with pytest.RaisesGroup(pytest.RaisesExc(DemoError, match="node-2"), flatten_subgroups=True):
        await ran.demo()
    assert ran.results == []


async def test_kept_it_stays_up_and_tells_where() -> None:
    ran = Ran()
    with trio.move_on_after(30) as scope:

        def finished(result: Result) -> None:
            ran.results.append(result)
            scope.deadline = trio.current_time() + 0.1

        await run_demo(Options(3, 200_000, 8_000_000, keep=True), ran.screen, finished)
    assert scope.cancelled_caught
    told = ran.out.getvalue()
    assert "Staying up" in told
    assert "podman pull --tls-verify=false 127.0.0.1:" in told
    assert all(f"node-{number}  registry 127.0.0.1:" in told for number in (1, 2, 3))
