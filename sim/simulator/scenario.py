"""Scenario files: what there is, and what happens when. docs/guides/simulator.md describes the format.

Laws: a key that is not known, a value of another type or out of range, and a name that means nothing are
refused, with the file, the key and what to do; nothing has two spellings.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from meshsat.errors import InvalidInputError

FILE_LIMIT = 256 * 1024
"""Bytes of a scenario file."""
NODES_LIMIT = 20_000
SITES_LIMIT = 2000
STEPS_LIMIT = 10_000
"""Steps, each repetition counted."""
SECONDS_LIMIT = 90 * 86400.0
MBIT_LIMIT = 100_000.0
MEGABYTES_LIMIT = 100_000.0
MBIT = 1e6 / 8
"""Bytes a second."""
MEGABYTE = 1e6


class ScenarioError(InvalidInputError):
    """A scenario file is not what it must be; the message names file and key, and says what to do."""


class Limit(StrEnum):
    """What the last node's time is compared with, headers not counted."""

    COLD = "cold"
    """Bytes that the site lacks / rate of its uplinks while they work."""
    WARM = "warm"
    """Bytes that a node wants / rate of its line."""
    NONE = "none"


class Do(StrEnum):
    WANT = "want"
    HOLD = "hold"
    START = "start"
    STOP = "stop"
    KILL = "kill"
    RESTART = "restart"
    UPLINK_DOWN = "uplink-down"
    UPLINK_UP = "uplink-up"
    CUT = "cut"
    HEAL = "heal"
    MOVE = "move"


@dataclass(frozen=True, slots=True)
class SitePlan:
    """`count` equal sites; where that is more than one they are called NAME-1 to NAME-COUNT."""

    name: str
    nodes: int
    lan_mbit: float
    count: int = 1
    uplinked: int = 0
    """The first so many nodes have an uplink."""
    uplink_mbit: float = 0.0
    wan_mbit: float = 0.0
    """What all uplinks of a site carry together; 0: no bound of its own."""
    late: int = 0
    """The last so many nodes are off until a step starts them."""

    @property
    def names(self) -> list[str]:
        return [self.name] if self.count == 1 else [f"{self.name}-{one}" for one in range(1, self.count + 1)]


@dataclass(frozen=True, slots=True)
class ImagePlan:
    name: str
    layers_mb: tuple[float, ...]
    upstream: bool = True
    """The registry has it."""

    @property
    def sizes(self) -> list[int]:
        return [round(size * MEGABYTE) for size in self.layers_mb]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(self.sizes)


@dataclass(frozen=True, slots=True)
class Step:
    at: float
    """Seconds from the start of the world."""
    do: Do
    nodes: tuple[str, ...] = ()
    """Selections: `*`, SITE, SITE/3, SITE/2-5, SITE/uplinked, SITE/dark."""
    image: str = ""
    to: str = ""
    """A site: where to move, or what to heal."""
    pick: int = 0
    """Of the selected nodes of each site, so many by chance; 0: all."""
    spread: float = 0.0
    """Each node does it up to so many seconds later, by chance."""
    every: float = 0.0
    times: int = 1

    def repetitions(self) -> Iterator["Step"]:
        for number in range(self.times):
            yield replace(self, at=self.at + number * self.every, every=0.0, times=1)


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    title: str
    about: str
    limit: Limit
    duration: float
    """Seconds after which it ends in any case."""
    sites: tuple[SitePlan, ...]
    images: tuple[ImagePlan, ...]
    steps: tuple[Step, ...]
    quick: bool = False
    """It is among those that `compare` runs by default."""
    to_the_end: bool = False
    """It runs for all of `duration`, also when nobody waits any more."""
    latency_ms: float = 0.5
    """One way, between two nodes of a site."""

    @property
    def nodes(self) -> int:
        return sum(site.count * site.nodes for site in self.sites)


# --- reading ---


class _Table:
    """A table of the file: every key is asked for once, and what is left over is not known."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise ScenarioError(f"{where}: write a table, [{where}] or [[{where}]]")
        self._left = dict(value)
        self._where = where

    def key(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name

    def take(self, name: str, default: Any) -> Any:
        if name in self._left:
            return self._left.pop(name)
        if default is None:
            raise ScenarioError(f"{self.key(name)} is missing: give it")
        return default

    def text(self, name: str, default: str | None = None) -> str:
        value = self.take(name, default)
        if not isinstance(value, str) or len(value) > 400 or (default is None and not value):
            raise ScenarioError(f"{self.key(name)}: write a text of 1 to 400 characters")
        return value

    def name(self) -> str:
        value = self.text("name")
        if not value.replace("-", "").isalnum() or not value.isascii() or len(value) > 40:
            raise ScenarioError(f"{self.key('name')}: use 1 to 40 letters, digits and -")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ScenarioError(f"{self.key(name)}: give a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int:
        value = self.take(name, default)
        if type(value) is not int or not low <= value <= high:
            raise ScenarioError(f"{self.key(name)}: give a whole number from {low} to {high}")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.take(name, default)
        if type(value) is not bool:
            raise ScenarioError(f"{self.key(name)}: write true or false")
        return value

    def one_of(self, name: str, kind: type[StrEnum], default: str | None = None) -> Any:
        value = self.take(name, default)
        if not isinstance(value, str) or value not in list(kind):
            raise ScenarioError(f"{self.key(name)}: write one of {', '.join(kind)}")
        return kind(value)

    def listed(self, name: str) -> list[Any]:
        value = self.take(name, [])
        if not isinstance(value, list):
            raise ScenarioError(f"{self.key(name)}: write a list, or [[{name}]]")
        return value

    def given(self, name: str) -> bool:
        return name in self._left

    def end(self) -> None:
        for name in self._left:
            raise ScenarioError(f"{self.key(name)} is not known: remove it, or see docs/guides/simulator.md")


def parse_untrusted(text: str, name: str) -> Scenario:
    """The scenario of this file. Raises `ScenarioError`; `name` is what it is called in reports."""
    if len(text) > FILE_LIMIT:
        raise ScenarioError(f"{name}: over {FILE_LIMIT} bytes")
    try:
        whole = _Table(tomllib.loads(text), "")
        scenario = _scenario(whole, name)
    except (tomllib.TOMLDecodeError, RecursionError) as malformed:
        raise ScenarioError(f"{name}: not TOML: {malformed}") from None
    except ScenarioError as wrong:
        raise ScenarioError(f"{name}: {wrong}") from None
    return scenario


def load_untrusted(file: Path) -> Scenario:
    """Raises `ScenarioError`."""
    try:
        with file.open("rb") as opened:
            text = opened.read(FILE_LIMIT + 1).decode()
    except (OSError, UnicodeDecodeError) as failed:
        raise ScenarioError(f"{file}: cannot be read: {failed}") from None
    return replace(parse_untrusted(text, str(file)), name=file.stem)


def _scenario(whole: _Table, name: str) -> Scenario:
    sites = tuple(_each(whole, "sites", _site))
    images = tuple(_each(whole, "images", _image))
    steps = tuple(_each(whole, "steps", _step))
    scenario = Scenario(
        name,
        title=whole.text("title"),
        about=whole.text("about", ""),
        limit=whole.one_of("limit", Limit),
        duration=whole.number("duration", 1, SECONDS_LIMIT),
        sites=sites,
        images=images,
        steps=steps,
        quick=whole.flag("quick", default=False),
        to_the_end=whole.flag("to_the_end", default=False),
        latency_ms=whole.number("latency_ms", 0, 1000, 0.5),
    )
    whole.end()
    _check(scenario)
    return scenario


def _each(whole: _Table, name: str, read: Callable[[_Table], Any]) -> Iterator[Any]:
    for number, value in enumerate(whole.listed(name)):
        table = _Table(value, f"{name}[{number}]")
        yield read(table)
        table.end()


def _site(table: _Table) -> SitePlan:
    nodes = table.whole("nodes", 1, NODES_LIMIT)
    uplinked = table.whole("uplinked", 0, nodes, 0)
    return SitePlan(
        table.name(),
        nodes,
        table.number("lan_mbit", 0.001, MBIT_LIMIT),
        count=table.whole("count", 1, SITES_LIMIT, 1),
        uplinked=uplinked,
        uplink_mbit=table.number("uplink_mbit", 0.001, MBIT_LIMIT) if uplinked else 0.0,
        wan_mbit=table.number("wan_mbit", 0.001, MBIT_LIMIT) if table.given("wan_mbit") else 0.0,
        late=table.whole("late", 0, nodes, 0),
    )


def _image(table: _Table) -> ImagePlan:
    layers = table.listed("layers_mb")
    if not layers or not all(type(one) in (int, float) and 0 < one <= MEGABYTES_LIMIT for one in layers):
        raise ScenarioError(
            f"{table.key('layers_mb')}: give the layers' sizes, each over 0 and up to {MEGABYTES_LIMIT:g}"
        )
    return ImagePlan(table.name(), tuple(map(float, layers)), table.flag("upstream", default=True))


def _step(table: _Table) -> Step:
    do: Do = table.one_of("do", Do)
    return Step(
        table.number("at", 0, SECONDS_LIMIT),
        do,
        () if do is Do.HEAL else _selections(table),
        image=table.text("image") if do in (Do.WANT, Do.HOLD) else "",
        to=table.text("to") if do is Do.MOVE else table.text("site") if do is Do.HEAL else "",
        pick=0 if do in (Do.HEAL, Do.MOVE, Do.CUT) else table.whole("pick", 0, NODES_LIMIT, 0),
        spread=0.0 if do in (Do.HEAL, Do.CUT) else table.number("spread", 0, SECONDS_LIMIT, 0),
        every=table.number("every", 0.001, SECONDS_LIMIT) if table.given("every") else 0.0,
        times=table.whole("times", 1, STEPS_LIMIT, 1),
    )


def _selections(table: _Table) -> tuple[str, ...]:
    value = table.take("nodes", None)
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed or not all(isinstance(one, str) for one in listed):
        raise ScenarioError(
            f"{table.key('nodes')}: write a selection, like 'store' or 'store/0-3', or a list"
        )
    return tuple(listed)


# --- meaning ---


def _check(scenario: Scenario) -> None:
    """Names are unique and known, and nothing is too large."""
    if not scenario.sites:
        raise ScenarioError("sites: give at least one [[sites]]")
    site_names = [name for site in scenario.sites for name in site.names]
    _unique("sites", site_names)
    _unique("images", [image.name for image in scenario.images])
    if scenario.nodes > NODES_LIMIT:
        raise ScenarioError(f"sites: {scenario.nodes} nodes are over the limit of {NODES_LIMIT}")
    if sum(step.times for step in scenario.steps) > STEPS_LIMIT:
        raise ScenarioError(f"steps: over {STEPS_LIMIT}, repetitions counted")
    images = {image.name for image in scenario.images}
    for number, step in enumerate(scenario.steps):
        where = f"steps[{number}]"
        if step.times > 1 and not step.every:
            raise ScenarioError(f"{where}.every is missing: after how many seconds is it done again?")
        if step.image and step.image not in images:
            raise ScenarioError(f"{where}.image: no image is called {step.image!r}; add [[images]]")
        if step.to and step.to not in site_names:
            raise ScenarioError(
                f"{where}: no site is called {step.to!r}; there are {', '.join(site_names[:5])}"
            )
        for selection in step.nodes:
            _check_selection(scenario, selection, where)


def _unique(what: str, names: list[str]) -> None:
    twice = (
        next((name for name in names if names.count(name) > 1), None) if len(names) < SITES_LIMIT else None
    )
    if twice is not None or len(set(names)) != len(names):
        raise ScenarioError(f"{what}: two are called {twice or 'the same'}; rename one")


def _check_selection(scenario: Scenario, selection: str, where: str) -> None:
    try:
        found = select(scenario, selection)
    except ScenarioError as wrong:
        raise ScenarioError(f"{where}.nodes: {wrong}") from None
    if not any(found.values()):
        raise ScenarioError(f"{where}.nodes: {selection!r} selects no node")


def select(scenario: Scenario, selection: str) -> Mapping[str, list[int]]:
    """Site -> the numbers of the nodes that began there. Raises `ScenarioError`."""
    wanted, slash, part = selection.partition("/")
    found: dict[str, list[int]] = {}
    for site in scenario.sites:
        for name in site.names:
            if wanted in ("*", site.name, name):
                found[name] = _part(site, part) if slash else list(range(site.nodes))
    if not found:
        raise ScenarioError(f"{selection!r} names no site; write SITE, SITE/3, SITE/2-5, SITE/uplinked or *")
    return found


def _part(site: SitePlan, part: str) -> list[int]:
    if part == "uplinked":
        return list(range(site.uplinked))
    if part == "dark":
        return list(range(site.uplinked, site.nodes))
    first, dash, last = part.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()) or len(part) > 20:
        raise ScenarioError(f"{part!r} is no part of a site; write 3, 2-5, uplinked or dark")
    stop = int(last if dash else first)
    if int(first) > stop or stop >= site.nodes:
        raise ScenarioError(f"{part!r}: the nodes of {site.name} are 0 to {site.nodes - 1}")
    return list(range(int(first), stop + 1))
