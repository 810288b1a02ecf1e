"""meshsat nodes as processes on the hosts of a site: started, asked, killed, started again.

Laws: a node is a real `python -m meshsat node` with a configuration file, in its host's namespace; it is
asked over its Unix socket, which does not care for namespaces. Nodes know nothing of each other beforehand
but that they are of one fleet: their passes are issued here, with the fleet's own code.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from meshsat.cli.client import SOCKET, NodeClient
from meshsat.errors import ConfigError, MeshsatError
from meshsat.mesh import identity
from meshsat.trust.issuing import issue_pass
from meshsat.trust.passes import NODE, PASS_LIFETIME, Subject
from sim.network import Host

FLEET = "box"
SITE = "box"
ROLES = frozenset({NODE, "shelf"})
"""Of all nodes but the first, which has the uplink and is the enroller."""
REGISTRY_PORT = 5000
STOP_SECONDS = 5.0
POLL_SECONDS = 0.05


class NodeError(RuntimeError):
    """A node did not do what it had to; the message ends with the last lines of its log."""


class Node:
    """One node. `data_dir` outlives its process, as a disk does."""

    def __init__(self, host: Host, directory: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
        self.host = host
        self.name = host.name
        self.data_dir = directory / "data"
        self.log = directory / "node.log"
        self.config = directory / "node.toml"
        self.program: tuple[str, ...] = ("meshsat",)
        """The module that is run as the node, and its arguments before the verb."""
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self.config.write_text(
            _toml({"data_dir": str(self.data_dir), "name": self.name}, settings), encoding="utf-8"
        )

    @property
    def command(self) -> tuple[str, ...]:
        return (sys.executable, "-m", *self.program, "node", "--config", str(self.config))

    @property
    def registry(self) -> str:
        """`HOST:PORT` of the embedded registry, for clients in the node's namespace."""
        return f"127.0.0.1:{REGISTRY_PORT}"

    def start(self) -> None:
        if self._process:
            raise self.fault("runs already")
        with self.log.open("ab") as log:
            self._process = self.host.namespace.start(*self.command, output=log, env=_clean_environment())

    def kill(self) -> None:
        """As the power going: no word of goodbye."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """SIGTERM; returns the exit code. Raises `NodeError` when it takes too long."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self.fault(f"did not end within {STOP_SECONDS:g} s of SIGTERM") from None
        self._process = None
        return code

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def status(self) -> dict[str, Any]:
        """`GET /api/v1/status`. Raises `MeshsatError`."""
        answer: dict[str, Any] = NodeClient(self.data_dir).get("/api/v1/status")
        return answer

    def peers(self) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = NodeClient(self.data_dir).get("/api/v1/peers")
        return answer

    def pull(self, reference: str) -> Iterator[dict[str, Any]]:
        """The events of `POST /api/v1/pull`. Raises `MeshsatError` when the node goes away."""
        return NodeClient(self.data_dir).stream("/api/v1/pull", {"reference": reference, "pin": False})

    def wait_until_up(self, seconds: float = 30.0, peers: int = 0) -> None:
        """Until the node says it is ready, and has sessions with so many peers. Raises `NodeError`."""
        deadline = time.monotonic() + seconds
        saw: object = "no answer"
        while time.monotonic() < deadline:
            if not self.runs:
                raise self.fault("ended while starting")
            try:
                NodeClient(self.data_dir).get("/readyz")
                saw = self.status()["peers"]
            except MeshsatError as not_yet:
                saw = not_yet
            if isinstance(saw, int) and saw >= peers:
                return
            time.sleep(POLL_SECONDS)
        raise self.fault(f"not up with {peers} peers within {seconds:g} s: {saw}")

    def cpu_seconds(self) -> float:
        return cpu_seconds(self._pid())

    def peak_bytes(self) -> int:
        return peak_bytes(self._pid())

    def counted(self, name: str) -> float:
        """The value of the metric `name`, one without labels. Raises `NodeError`."""
        transport = httpx.HTTPTransport(uds=str(self.data_dir / SOCKET))
        try:
            with httpx.Client(transport=transport, base_url="http://node") as http:
                lines = http.get("/metrics").raise_for_status().text.splitlines()
        except httpx.HTTPError as fault:
            raise self.fault(f"does not tell its metrics: {fault}") from None
        for line in lines:
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise self.fault(f"has no metric {name}")

    def resident_bytes(self) -> int:
        return resident_bytes(self._pid())

    def wakes(self) -> int:
        return wakes(self._pid())

    def fault(self, text: str) -> NodeError:
        return NodeError(f"node {self.name} {text}\n--- end of {self.log}\n{self.log_tail()}")

    def log_tail(self, lines: int = 25) -> str:
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _pid(self) -> int:
        if self._process is None:
            raise self.fault("does not run")
        return self._process.pid


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (proc(5), stat fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_bytes(pid: int) -> int:
    """The most memory that it ever had resident (proc(5), VmHWM)."""
    return _kib(pid, "VmHWM") * 1024


def resident_bytes(pid: int) -> int:
    return _kib(pid, "VmRSS") * 1024


def wakes(pid: int) -> int:
    """How often its threads went to sleep and were woken, so far; of those that live."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended
            text = (task / "status").read_text(encoding="utf-8")
            total += int(text.rpartition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return total


def _kib(pid: int, field: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith(field + ":"))
    return int(line.split()[1])


def enrol(nodes: list[Node], now: float) -> None:
    """Make the nodes one fleet: the first is its enroller. `now` in Unix seconds."""
    first, *others = nodes
    founder = identity.init_fleet(first.data_dir, FLEET, SITE, first.name, now)
    for node in others:
        admit(node, founder, now)


def admit(node: Node, founder: identity.Identity, now: float, lifetime: float = PASS_LIFETIME) -> None:
    """Give `node` a pass, issued at `now` for `lifetime` seconds by one who may. Raises `ConfigError`."""
    if founder.issuer is None:
        raise ConfigError(f"{founder.member.name} is no enroller")
    key = identity.node_key(node.data_dir)
    chain = issue_pass(founder.issuer, Subject(key.peer_id, SITE, node.name, ROLES), now, lifetime)
    identity.accept_pass(node.data_dir, founder.root, chain)


def _toml(top: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> str:
    """JSON's strings, numbers, booleans and arrays are TOML's; inline tables are not."""
    lines = [f"{key} = {_value(value)}" for key, value in top.items()]
    for name, section in sections.items():
        lines += [f"[{name}]", *(f"{key} = {_value(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value)


def _clean_environment() -> dict[str, str]:
    """Without what must not reach a node from whoever runs the site: settings, proxies."""
    kept = (
        key for key in os.environ if not key.startswith("MESHSAT_") and not key.lower().endswith("_proxy")
    )
    return {key: os.environ[key] for key in kept}
