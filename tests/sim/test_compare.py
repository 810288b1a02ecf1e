"""The quick scenarios are as good as their baselines; and what `compare` makes of figures that are not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sim.__main__ import main
from sim.simulator import baseline
from sim.simulator.baseline import TOLERANCES, BaselineError
from sim.simulator.figures import NAMES, Figures
from sim.simulator.scenario import Scenario
from sim.verbs import compare, scenarios
from tests.sim.test_run import HEAD, WANT

FIGURES = Figures(
    scenario="x", seed=1, sites=1, nodes=4, wants=4, fulfilled=4, size=4e6, wan_bytes=4e6, wan_ratio=1.0,
    median_seconds=2.0, last_seconds=2.1, limit_seconds=2.0, last_ratio=1.05, duplicate_share=0.001,
    control_bytes=30_000.0, control_bytes_max=40_000.0, gossip_bytes=1000.0, control_rate=100.0, seconds=9.0,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("scenario", scenarios.quick(), ids=lambda scenario: scenario.name)
def test_no_figure_is_worse_than_its_baseline(scenario: Scenario) -> None:
    stored = baseline.load_untrusted(compare.DIRECTORY / f"{scenario.name}.json")
    differences = baseline.compare(stored, compare.measure(scenario))
    worse = [compare.in_words(one) for one in differences if one.worse]
    assert not worse, "\n".join(
        [*worse, f"if that is meant: python -m sim compare --update {scenario.name}, and commit it"]
    )


def judged(now: Figures) -> dict[str, tuple[bool, bool]]:
    return {one.figure: (one.worse, one.better) for one in baseline.compare(FIGURES.to_json(), now)}


def test_what_is_as_it_was_is_neither_worse_nor_better() -> None:
    assert set(judged(FIGURES).values()) == {(False, False)}
    assert set(judged(FIGURES)) == set(TOLERANCES)
    assert set(judged(replace(FIGURES, last_seconds=2.15)).values()) == {(False, False)}, "within tolerance"


@pytest.mark.parametrize(
    ("figure", "value", "verdict"),
    [
        ("last_seconds", 2.5, (True, False)),
        ("last_seconds", 1.8, (False, True)),
        ("last_seconds", None, (True, False)),
        ("wan_ratio", 1.006, (True, False)),
        ("duplicate_share", 0.002, (False, False)),
        ("duplicate_share", 0.02, (True, False)),
        ("control_bytes", 40_000.0, (True, False)),
        ("gossip_bytes", 400.0, (False, True)),
    ],
)
def test_what_went_over_its_tolerance_is_seen(
    figure: str, value: float | None, verdict: tuple[bool, bool]
) -> None:
    found = judged(replace(FIGURES, **{figure: value}))  # type: ignore[arg-type]  # one of its fields
    assert found.pop(figure) == verdict
    assert set(found.values()) == {(False, False)}


def test_one_that_goes_without_is_worse() -> None:
    assert judged(replace(FIGURES, fulfilled=3))["unfulfilled"] == (True, False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not a baseline"),
        ("[]", "other figures"),
        ('{"wants": 1}', "other figures"),
        (json.dumps(dict.fromkeys(NAMES, "x")), "wants is no number"),
        (json.dumps(dict.fromkeys(NAMES)), "wants is no number"),
    ],
)
def test_a_baseline_that_is_none_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(BaselineError, match=says):
        baseline.load_untrusted(file)


def test_a_baseline_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "new" / "x.json"
    with pytest.raises(BaselineError, match="--update"):
        baseline.load_untrusted(file)
    baseline.store(file, FIGURES)
    assert baseline.load_untrusted(file) == FIGURES.to_json()


def test_the_command_fails_where_a_figure_is_worse_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "DIRECTORY", tmp_path / "sim" / "baselines")
    small = tmp_path / "small.toml"
    small.write_text(HEAD.format(limit="cold", late=0) + WANT)
    assert main(["compare", str(small)]) == 2
    assert "store one with" in capsys.readouterr().err
    assert main(["compare", str(small), "--update"]) == 0
    assert main(["compare", str(small)]) == 0
    assert "as it was" in capsys.readouterr().out
    stored = tmp_path / "sim" / "baselines" / "small.json"
    figures = json.loads(stored.read_text())
    stored.write_text(json.dumps({**figures, "last_seconds": figures["last_seconds"] / 2}))
    assert main(["compare", str(small)]) == 1
    told = capsys.readouterr().out
    assert "last_seconds" in told
    assert "WORSE" in told
    assert "--update small" in told
