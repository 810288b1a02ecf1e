"""`meshsat demo`: see the mesh work, on this machine alone."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshsat.cli.exits import FAILED, INTERRUPTED, OK, say

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import trio

    from meshsat.demo.report import Result
    from meshsat.demo.run import Options
    from meshsat.demo.screen import Screen


def run(
    nodes: Annotated[int, typer.Option(min=2, max=20, help="How many nodes.")] = 5,
    size_mb: Annotated[float, typer.Option(min=0.1, max=1000, help="Size of the image, 10^6 bytes.")] = 40,
    uplink_mbit: Annotated[float, typer.Option(min=0.1, max=1000, help="Rate of the uplink, Mbit/s.")] = 20,
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards and print the addresses.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The result as one JSON object on one line of stdout.")
    ] = False,
) -> None:
    """Watch an image cross a thin uplink once and reach five nodes.

    Everything happens on this machine, and nothing of it is left afterwards.
    """
    from rich.console import Console

    from meshsat.demo.run import Options
    from meshsat.demo.screen import Screen

    options = Options(nodes, int(1e6 * size_mb), int(1e6 * uplink_mbit), keep)
    visit = _Visit(Screen(Console(stderr=as_json, highlight=False)), as_json)
    raise typer.Exit(visit.run(options))


class _Visit:
    """One run of the demo, as the command line sees it."""

    def __init__(self, screen: "Screen", as_json: bool) -> None:
        self._screen = screen
        self._as_json = as_json
        self._result: Result | None = None

    def run(self, options: "Options") -> int:
        """The exit code."""
        import trio

        from meshsat.cli.faults import culprit, in_words
        from meshsat.demo.place import DemoError

        try:
            trio.run(self._until_signal, options)
        except BaseException as end:
            fault = culprit(end)
            if fault is None:
                raise
            if isinstance(fault, DemoError) and fault.log:
                self._screen.show(fault.log)
            say(in_words(fault))
            self._print({"ok": False, "error": in_words(fault)})
            return FAILED
        if self._result is None:
            say("interrupted; nothing is left running")
            return INTERRUPTED
        return OK if self._result.ok else FAILED

    async def _until_signal(self, options: "Options") -> None:
        import trio

        from meshsat.cli.foreground import ENDING
        from meshsat.demo.run import run_demo

        with trio.open_signal_receiver(*ENDING) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_on_signal, signals, nursery.cancel_scope)
                await run_demo(options, self._screen, self._finished)
                nursery.cancel_scope.cancel()

    async def _end_on_signal(self, signals: "AsyncIterator[int]", scope: "trio.CancelScope") -> None:
        async for _ in signals:  # a second one changes nothing: the end is under way, and takes seconds
            scope.cancel()

    def _finished(self, result: "Result") -> None:
        self._result = result
        self._print(result.as_json())

    def _print(self, answer: dict[str, Any]) -> None:
        import json

        if self._as_json:
            print(json.dumps(answer), flush=True)
