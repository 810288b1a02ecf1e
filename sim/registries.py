"""Registries as processes on loopback, to be measured beside each other: docker-registry, and a node.

Laws: both hold the same content, on the same disk, without TLS; neither writes an access log; each is ended
by whoever started it. The node gets its content by pulling from the other.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

from meshsat.cli.client import NodeClient
from meshsat.config import RegistrySection
from meshsat.errors import MeshsatError
from sim.nodes import cpu_seconds, peak_bytes, resident_bytes

UP_SECONDS = 30.0
STOP_SECONDS = 10.0
CAN_PUSH = "push" in RegistrySection.model_fields
"""Whether the node takes pushes over TCP."""
DOCKER_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  cache: {{blobdescriptor: inmemory}}
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http: {{addr: "{address}"}}
"""
NODE_CONFIG = """\
data_dir = "{data}"
name = "bench"
[mesh]
listen = "127.0.0.1"
control_port = 0
bulk_port = 0
mdns = false
[registry]
port = {port}
upstream = "{upstream}"
tag_ttl = 86400.0
{push}
[api]
port = 0
[[uplink.registries]]
host = "{upstream}"
plain_http = true
"""


class RegistryError(RuntimeError):
    """A registry did not do what it had to; the message ends with the last lines of its log."""


class Registry(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str:
        """`HOST:PORT`."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def fill(self, repository: str, tag: str) -> None:
        """Hold this image of the upstream, and all that it refers to."""

    def cpu_seconds(self) -> float: ...

    def resident_mib(self) -> float: ...

    def peak_mib(self) -> float:
        """Since the last `forget_peak`."""

    def forget_peak(self) -> None: ...


class _Process:
    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.address = f"127.0.0.1:{_free_port()}"
        self._directory = directory
        self._log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def _run(self, *command: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MESHSAT_")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=kept)
        host, _, port = self.address.rpartition(":")
        deadline = time.monotonic() + UP_SECONDS
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise self._fault("does not come up") from None
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def cpu_seconds(self) -> float:
        return cpu_seconds(self._pid)

    def resident_mib(self) -> float:
        return resident_bytes(self._pid) / 2**20

    def peak_mib(self) -> float:
        return peak_bytes(self._pid) / 2**20

    def forget_peak(self) -> None:
        """proc(5), clear_refs: VmHWM becomes what is resident now."""
        Path(f"/proc/{self._pid}/clear_refs").write_text("5", encoding="ascii")

    @property
    def _pid(self) -> int:
        if self._process is None:
            raise self._fault("does not run")
        return self._process.pid

    def _fault(self, text: str) -> RegistryError:
        said = self._log.read_text(encoding="utf-8", errors="replace")[-2000:] if self._log.exists() else ""
        return RegistryError(f"{self.name} {text}\n--- end of its log\n{said}")


class DockerRegistry(_Process):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "docker-registry")

    def start(self) -> None:
        config = self._directory / "registry.yml"
        root = self._directory / "registry"
        config.write_text(DOCKER_CONFIG.format(root=root, address=self.address), encoding="utf-8")
        self._run("docker-registry", "serve", str(config))

    def fill(self, repository: str, tag: str) -> None:
        """It is the upstream."""


class MeshsatRegistry(_Process):
    def __init__(self, directory: Path, upstream: str) -> None:
        super().__init__(directory, "meshsat")
        self._upstream = upstream
        self._data = directory / "node"

    def start(self) -> None:
        config = self._directory / "node.toml"
        text = NODE_CONFIG.format(
            data=self._data,
            port=self.address.rpartition(":")[2],
            upstream=self._upstream,
            push="push = true" if CAN_PUSH else "",
        )
        config.write_text(text, encoding="utf-8")
        if not self._data.exists():
            command = (sys.executable, "-m", "meshsat", "init", "--config", str(config), "bench")
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode:
                raise self._fault(f"makes no fleet: {made.stderr}")
        self._run(sys.executable, "-m", "meshsat", "node", "--config", str(config))

    def fill(self, repository: str, tag: str) -> None:
        asked = {"reference": f"{self._upstream}/{repository}:{tag}", "pin": True}
        try:
            last = [*NodeClient(self._data).stream("/api/v1/pull", asked)][-1]
        except (MeshsatError, IndexError) as fault:
            raise self._fault(f"does not pull {asked['reference']}: {fault}") from None
        if last.get("error"):
            raise self._fault(f"does not pull: {json.dumps(last)}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
