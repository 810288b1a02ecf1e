"""The registry in the WAN: Debian's docker-registry (CNCF distribution) in the wan namespace."""

import re
import subprocess
import sys
from pathlib import Path

from sim.images import Layout
from sim.namespaces import Namespace
from sim.network import UPSTREAM_ADDRESS

PORT = 5000
PUSH_SECONDS = 120.0
REQUEST = re.compile(r'"([A-Z]+) (/v2/[^ ?"]*)[^"]* HTTP/1\.1"')
CONFIG = """\
version: 0.1
log: {{level: warn, accesslog: {{disabled: false}}}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http: {{addr: "0.0.0.0:{port}"}}
"""


class Upstream:
    """Runs from construction to `stop`; the owner of the namespace ends it at the latest."""

    def __init__(self, wan: Namespace, directory: Path) -> None:
        self.host = f"{UPSTREAM_ADDRESS}:{PORT}"
        """`HOST:PORT` as it stands in references."""
        self.log = directory / "upstream.log"
        self._wan = wan
        self._config = directory / "upstream.yml"
        self._config.write_text(CONFIG.format(root=directory / "upstream", port=PORT), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = self._wan.start("docker-registry", "serve", str(self._config), output=log)

    def stop(self) -> None:
        """As a registry that is gone: connections are refused."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def push(self, layout: Layout, repository: str, tag: str) -> str:
        """Store the image; returns its reference. Raises `CommandError`."""
        target = (self.host, repository, tag, str(layout.directory))
        self._wan.run(sys.executable, "-m", "sim.push", *target, timeout=PUSH_SECONDS)
        return f"{self.host}/{repository}:{tag}"

    def requests(self) -> list[str]:
        """What was asked so far, from the access log: `GET /v2/test/random/manifests/1`, without queries."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return [f"{method} {path}" for method, path in REQUEST.findall(text)]
