"""Scenario files: what is right is read, what is not is refused with the key and what to do."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.simulator.scenario import (
    FILE_LIMIT,
    Do,
    Limit,
    Scenario,
    ScenarioError,
    Step,
    load_untrusted,
    parse_untrusted,
    select,
)
from sim.verbs import scenarios

HEAD = 'title = "T"\nlimit = "cold"\nduration = 60\n'
SITE = '[[sites]]\nname = "shop"\nnodes = 4\nlan_mbit = 100\nuplinked = 1\nuplink_mbit = 10\n'
IMAGE = '[[images]]\nname = "app"\nlayers_mb = [1, 2.5]\n'
WANT = '[[steps]]\nat = 1\ndo = "want"\nnodes = "shop"\nimage = "app"\n'
GOOD = HEAD + SITE + IMAGE + WANT


def test_a_scenario_is_read() -> None:
    scenario = parse_untrusted(GOOD, "good")
    assert (scenario.name, scenario.title, scenario.limit) == ("good", "T", Limit.COLD)
    assert scenario.nodes == 4
    assert scenario.images[0].sizes == [1_000_000, 2_500_000]
    assert scenario.steps == (Step(1.0, Do.WANT, ("shop",), image="app"),)


@pytest.mark.parametrize("name", scenarios.names())
def test_those_that_come_along_are_right(name: str) -> None:
    scenario = scenarios.load(name)
    assert scenario.name == name
    assert scenario.about


def test_the_issue_s_scenarios_are_there() -> None:
    named = {
        "site-cold", "site-warm", "two-uplinks", "flapping-uplink", "node-churn", "partition-and-heal",
        "dark-site-joiner", "train-and-depot", "fleet-500x20",
    }  # fmt: skip
    assert named <= set(scenarios.names())
    assert scenarios.load("fleet-500x20").nodes == 10_000
    assert {f"{kind}-{nodes}" for kind in ("cold", "warm") for nodes in (4, 8, 16)} <= set(scenarios.names())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("title = ", "not TOML"),
        ("[" * 5000, "not TOML"),
        ("x" * (FILE_LIMIT + 1), "over"),
        (GOOD.replace('title = "T"', ""), "title is missing: give it"),
        (GOOD.replace('title = "T"', "title = 1"), "title: write a text"),
        (GOOD.replace("duration = 60", "duration = 0"), "duration: give a number from 1 to"),
        (GOOD.replace("duration = 60", "duration = true"), "duration: give a number"),
        (GOOD.replace("duration = 60", "duration = nan"), "duration: give a number"),
        (GOOD.replace("cold", "hot"), "limit: write one of cold, warm, none"),
        (HEAD + "quick = 1\n" + SITE, "quick: write true or false"),
        (HEAD + "speed = 1\n" + SITE, "speed is not known: remove it, or see docs/guides"),
        (HEAD + SITE + "colour = 'red'\n", r"sites\[0\].colour is not known"),
        (HEAD, "give at least one"),
        (HEAD + "sites = 3\n", "sites: write a list"),
        (HEAD + "sites = [3]\n", r"sites\[0\]: write a table"),
        (GOOD.replace("nodes = 4", "nodes = 0"), r"sites\[0\].nodes: give a whole number from 1"),
        (GOOD.replace("nodes = 4", "nodes = 4.0"), r"sites\[0\].nodes: give a whole number"),
        (GOOD.replace("uplinked = 1", "uplinked = 5"), r"uplinked: give a whole number from 0 to 4"),
        (GOOD.replace("uplink_mbit = 10\n", ""), r"sites\[0\].uplink_mbit is missing"),
        (GOOD.replace('name = "shop"', 'name = "a/b"'), "use 1 to 40 letters, digits and -"),
        (HEAD + SITE + SITE, "two are called shop; rename one"),
        (HEAD + SITE.replace("nodes = 4", "nodes = 20000\ncount = 2"), "over the limit of 20000"),
        (GOOD.replace("[1, 2.5]", "[]"), "layers_mb: give the layers' sizes"),
        (GOOD.replace("[1, 2.5]", "[1, -1]"), "layers_mb: give the layers' sizes"),
        (GOOD.replace("[1, 2.5]", '["1"]'), "layers_mb: give the layers' sizes"),
        (GOOD.replace('"want"', '"dance"'), r"steps\[0\].do: write one of want, hold"),
        (GOOD.replace('image = "app"', 'image = "other"'), "no image is called 'other'"),
        (GOOD.replace('image = "app"', ""), r"steps\[0\].image is missing"),
        (GOOD.replace('nodes = "shop"', 'nodes = "office"'), r"steps\[0\].nodes: 'office' names no site"),
        (GOOD.replace('nodes = "shop"', 'nodes = "shop/4"'), "the nodes of shop are 0 to 3"),
        (GOOD.replace('nodes = "shop"', 'nodes = "shop/2-1"'), "the nodes of shop are 0 to 3"),
        (GOOD.replace('nodes = "shop"', 'nodes = "shop/x"'), "write 3, 2-5, uplinked or dark"),
        (GOOD.replace('nodes = "shop"', "nodes = []"), "write a selection"),
        (GOOD + "times = 3\n", r"steps\[0\].every is missing"),
        (GOOD + "every = 1\ntimes = 10001\n", "times: give a whole number"),
        (GOOD + "to = 'shop'\n", r"steps\[0\].to is not known"),
        (GOOD + "[[steps]]\nat = 1\ndo = 'move'\nnodes = 'shop'\nto = 'sea'\n", "no site is called 'sea'"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(ScenarioError, match=says) as refused:
        parse_untrusted(text, "file.toml")
    assert str(refused.value).startswith("file.toml: ")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"none\.toml: cannot be read"):
        load_untrusted(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(ScenarioError, match="cannot be read"):
        load_untrusted(tmp_path / "bytes.toml")
    with pytest.raises(ScenarioError, match="no scenario is called 'sea'; there are cold-16"):
        scenarios.load("sea")


def two_kinds_of_sites() -> Scenario:
    sites = SITE + SITE.replace('"shop"', '"mall"\ncount = 2')
    return parse_untrusted(HEAD + sites, "x")


@pytest.mark.parametrize(
    ("selection", "found"),
    [
        ("*", {"shop": [0, 1, 2, 3], "mall-1": [0, 1, 2, 3], "mall-2": [0, 1, 2, 3]}),
        ("mall", {"mall-1": [0, 1, 2, 3], "mall-2": [0, 1, 2, 3]}),
        ("mall-2/1", {"mall-2": [1]}),
        ("shop/1-2", {"shop": [1, 2]}),
        ("*/uplinked", {"shop": [0], "mall-1": [0], "mall-2": [0]}),
        ("shop/dark", {"shop": [1, 2, 3]}),
    ],
)
def test_selections(selection: str, found: dict[str, list[int]]) -> None:
    assert select(two_kinds_of_sites(), selection) == found


def test_a_step_is_repeated() -> None:
    step = Step(3.0, Do.KILL, ("shop",), every=10.0, times=3)
    assert [one.at for one in step.repetitions()] == [3.0, 13.0, 23.0]


KEYS = st.sampled_from(["title", "limit", "duration", "nodes", "do", "at", "every", "layers_mb", "odd"])
VALUES = st.sampled_from(
    ["1", "-1", "1e999", "nan", '"want"', '"*"', "[]", "[1]", "true", "{}", "1979-05-27"]
)


@given(st.lists(st.tuples(st.integers(0, 20), KEYS, VALUES), max_size=4), st.text(max_size=20))
def test_any_file_is_read_or_refused(changes: list[tuple[int, str, str]], rest: str) -> None:
    lines = GOOD.splitlines()
    for at, key, value in changes:
        lines[at % len(lines)] = f"{key} = {value}"
    for text in ("\n".join(lines), "\n".join(lines) + rest, rest):
        with suppress(ScenarioError):
            assert parse_untrusted(text, "x").sites
