"""Processes that a test starts and ends: nodes as an operator runs them, and whatever they need beside them.

Law: what was started is stopped, whatever becomes of the test; nothing of the caller's settings reaches it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx

DEADLINE = 40.0
"""Seconds for one step, on a machine that is busy with other tests."""
LISTENING = re.compile(r"listening on (127\.0\.0\.1:[0-9]+)")
"""What docker-registry says of its address."""
T = TypeVar("T")


def until(what: str, look: Callable[[], T | None], seconds: float = DEADLINE) -> T:
    """Poll until `look` gives something true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen = look()
        if seen:
            return seen
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def clean_environment() -> dict[str, str]:
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("MESHSAT_") and not key.lower().endswith("_proxy")
    }
    return {**kept, "COLUMNS": "200"}


class Process:
    """A process with its output in a file; whoever makes one ends it."""

    def __init__(self, log: Path, *command: str) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, env=clean_environment())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def terminate(self) -> tuple[int, float]:
        """SIGTERM; the exit code, and after how many seconds."""
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(DEADLINE), time.monotonic() - began


class Node:
    def __init__(self, place: "Place", name: str, sections: Mapping[str, Mapping[str, Any]]) -> None:
        self._place = place
        self.name = name
        self.data_dir = place.directory / name
        self.config = place.directory / f"{name}.toml"
        self.process: Process | None = None
        self.configure(sections)

    def configure(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        told: dict[str, dict[str, Any]] = {
            "mesh": {"listen": "127.0.0.1", "control_port": 0, "bulk_port": 0},
            "registry": {"port": 0, "tag_ttl": 2.0},
            "api": {"port": 0},
        }
        for section, values in sections.items():
            told.setdefault(section, {}).update(values)
        lines = [f"data_dir = {json.dumps(str(self.data_dir))}", f'name = "{self.name}"']
        for section, values in told.items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        self.config.write_text("\n".join(lines) + "\n")

    def start(self) -> Process:
        command = (sys.executable, "-m", "meshsat", "node", "--config", str(self.config))
        self.process = self._place.start(f"{self.name}.log", *command)
        return self.process

    def run(self, verb: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """A command of meshsat beside the node; `verb` may be of two words."""
        command = (sys.executable, "-m", "meshsat", *verb.split(), "--config", str(self.config), *arguments)
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE, check=False, env=clean_environment()
        )
        assert done.returncode == code, (
            command,
            done.stdout,
            done.stderr,
            self.process and self.process.said,
        )
        return done

    def ask(self, path: str) -> httpx.Response | None:
        """The node's API; None while it does not answer."""
        transport = httpx.HTTPTransport(uds=str(self.data_dir / "api.sock"))
        try:
            with httpx.Client(transport=transport, timeout=5.0) as http:
                return http.get(f"http://node{path}")
        except httpx.TransportError:
            return None

    def status(self) -> dict[str, Any]:
        answer = self.ask("/api/v1/status")
        assert answer is not None
        status: dict[str, Any] = answer.json()
        return status

    def ready(self) -> bool:
        answer = self.ask("/readyz")
        return answer is not None and answer.status_code == 200

    def wait_until_ready(self, peers: int = 0) -> dict[str, Any]:
        until(f"{self.name} is ready", self.ready)
        return until(
            f"{self.name} has {peers} peers",
            lambda: status if (status := self.status())["peers"] >= peers else None,
        )

    def get(self, path: str) -> httpx.Response:
        address = self.status()["registry_address"]
        return httpx.get(f"http://{address}/v2/{path}", timeout=DEADLINE, trust_env=False)


class Place:
    """What a test made: one directory, and processes that end with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._processes: list[Process] = []

    def start(self, log: str, *command: str) -> Process:
        process = Process(self.directory / log, *command)
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in self._processes:
            process.kill()
