"""The worker's side of stage.py: what it is told, what it says. Imports nothing heavy."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any


def work(prepare: Callable[[dict[str, Any]], Callable[[], dict[str, Any]]]) -> None:
    """Prepare for the task on standard input; say so; at the word run what `prepare` returned; tell its end.

    What is run returns its results, `finished` among them if it ended before it returned.
    """
    task = json.loads(sys.stdin.readline())
    try:
        run = prepare(task)
        _say({"ready": True})
        if sys.stdin.readline() == "go\n":
            results = run()
            _say({"finished": time.monotonic(), **results})
    except (OSError, ValueError, RuntimeError) as fault:
        _say({"failure": str(fault)})
    sys.stdin.readline()  # whatever others fetch from here stays up until the owner ends it


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)
