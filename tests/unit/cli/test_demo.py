import json
import os
import signal
from collections.abc import Callable

import pytest
import trio

from meshsat.demo import run
from meshsat.demo.place import DemoError
from meshsat.demo.report import Result
from meshsat.demo.run import Options
from meshsat.demo.screen import Screen
from tests.unit.cli.conftest import Meshsat

RESULT = Result(2_000_000, 8_000_000, 2_000_000, {"node-1": 2.1, "node-2": 2.2}, "skopeo", "node-2")


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Options]]:
    """Put something else in the demo's place; the options that it was run with."""

    def replace(result: Result | None, fault: DemoError | None = None) -> list[Options]:
        seen: list[Options] = []

        async def run_demo(options: Options, _screen: Screen, finished: Callable[[Result], None]) -> None:
            seen.append(options)
            if fault is not None:
                raise fault
            if result is not None:
                finished(result)
            if result is None or options.keep:
                os.kill(os.getpid(), signal.SIGINT)
                await trio.sleep_forever()

        monkeypatch.setattr(run, "run_demo", run_demo)
        return seen

    return replace


Demo = Callable[..., list[Options]]


def test_json_is_the_last_line_and_alone_on_stdout(meshsat: Meshsat, demo: Demo) -> None:
    demo(RESULT)
    ended = meshsat("demo", "--json")
    assert ended.code == 0
    assert json.loads(ended.out) == json.loads(json.dumps(RESULT.as_json()))
    assert len(ended.out.splitlines()) == 1


def test_flags_become_options(meshsat: Meshsat, demo: Demo) -> None:
    seen = demo(RESULT)
    meshsat("demo", "--nodes", 3, "--size-mb", 2.5, "--uplink-mbit", 8)
    meshsat("demo")
    assert seen == [Options(3, 2_500_000, 8_000_000), Options(5, 40_000_000, 20_000_000)]


def test_an_image_that_crossed_twice_is_a_failure(meshsat: Meshsat, demo: Demo) -> None:
    demo(Result(2_000_000, 8_000_000, 4_000_000, {"node-1": 2.1}, "skopeo", "node-2"))
    ended = meshsat("demo", "--json")
    assert (ended.code, json.loads(ended.out)["ok"]) == (1, False)


def test_a_failure_shows_the_culprits_log(meshsat: Meshsat, demo: Demo) -> None:
    demo(None, DemoError("node-3 ended by itself", "[error] its last words\n"))
    ended = meshsat("demo", "--json")
    assert ended.code == 1
    assert "[error] its last words" in ended.err
    assert ended.err.splitlines()[-1] == "meshsat: node-3 ended by itself"
    assert json.loads(ended.out) == {"ok": False, "error": "node-3 ended by itself"}


def test_interrupted_it_says_that_nothing_is_left(meshsat: Meshsat, demo: Demo) -> None:
    demo(None)
    ended = meshsat("demo")
    assert (ended.code, ended.err) == (130, "meshsat: interrupted; nothing is left running\n")


def test_kept_and_then_interrupted_it_ends_well(meshsat: Meshsat, demo: Demo) -> None:
    demo(RESULT)
    assert meshsat("demo", "--keep").code == 0


@pytest.mark.parametrize("wrong", [("--nodes", "1"), ("--size-mb", "0"), ("--uplink-mbit", "x")])
def test_what_makes_no_sense_is_misuse(meshsat: Meshsat, demo: Demo, wrong: tuple[str, str]) -> None:
    demo(RESULT)
    assert meshsat("demo", *wrong).code == 2
