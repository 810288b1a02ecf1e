"""Which scenarios there are: those of `sim/scenarios`, by name, and any other by its file."""

from pathlib import Path

from sim.simulator.scenario import Scenario, ScenarioError, load_untrusted

DIRECTORY = Path(__file__).parent.parent / "scenarios"


def names() -> list[str]:
    return sorted(file.stem for file in DIRECTORY.glob("*.toml"))


def load(name: str) -> Scenario:
    """By name, or by a path that ends in `.toml`. Raises `ScenarioError`."""
    if name.endswith(".toml"):
        return load_untrusted(Path(name))
    if name not in names():
        raise ScenarioError(f"no scenario is called {name!r}; there are {', '.join(names())}, or give a file")
    return load_untrusted(DIRECTORY / f"{name}.toml")


def quick() -> list[Scenario]:
    """Those that `compare` runs by default, and the tests."""
    return [scenario for scenario in map(load, names()) if scenario.quick]
