"""Results as a benchmark gives them, made up."""

from sim.benchmark.figures import Figures, Report, Result
from sim.benchmark.world import Case, World

SMALL = World(4, 50, 200, 200)
LARGE = World(16, 12.5, 50, 50)
MACHINE = {
    "cores": 2,
    "kernel": "6.1",
    "python": "3.11.7",
    "libtorrent": None,
    "docker_registry": "2.8.2",
}


def figures(
    last: float = 1.06, wan: float = 1.003, cpu: tuple[float, ...] = (2.0, 1.0), again: float | None = None
) -> Figures:
    return Figures(
        seconds_first=1.0,
        seconds_last=32 * last,
        last_ratio=last,
        wan_ratio=wan,
        wan_wire_ratio=wan * 1.046,
        lan_ratio=1.01,
        cpu_seconds=cpu,
        peak_mib=80.0,
        duplicate_share=again,
    )


def result(
    system: str = "meshsat",
    case: Case = Case.COLD,
    world: World = SMALL,
    number: int = 1,
    of: Figures | None = None,
    failure: str | None = None,
) -> Result:
    return Result(system, case, world, number, None if failure else of or figures(), failure)


def report() -> Report:
    """Two systems, two worlds, two cases, two runs; one run failed; one system has no warm case."""
    results = [
        result("meshsat", case, world, number, figures(1.04 + number / 50, again=0.001))
        for case in Case
        for world in (SMALL, LARGE)
        for number in (1, 2)
    ]
    results += [
        result("direct", Case.COLD, world, 1, figures(world.nodes * 1.05)) for world in (SMALL, LARGE)
    ]
    results.append(result("direct", Case.COLD, SMALL, 2, failure="http_client in n0: 404"))
    return Report(MACHINE, {"runs": 2}, tuple(results))
