"""Hosts to install on: trees of configuration as people have them, and what they are afterwards."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from meshsat.runtime.apply import Applier
from meshsat.runtime.disk import Disk
from meshsat.runtime.plans import Mirror, Origin
from meshsat.runtime.record import Records

HOSTS = Path(__file__).parent / "hosts"
REFUSED = Path(__file__).parent / "refused"
CASES = sorted(path.name for path in HOSTS.iterdir())
STATE = "/var/lib/meshsat/runtime"
NODE = "http://127.0.0.1:5000"
MIRROR = Mirror(NODE, unnamed="docker.io")
OTHER = Mirror(
    "https://10.0.0.7:5443", (Origin("ghcr.io"), Origin("lab.lan:5000", True)), False, None, "docker.io"
)
"""Another wish: another node, and these registries only."""
PLACES = {"podman": "containers", "cri-o": "containers"}


def runtime_of(case: str) -> str:
    """The directory's name begins with the runtime's."""
    return "cri-o" if case.startswith("cri-o") else case.partition("-")[0]


def place_of(case: str) -> str:
    return PLACES.get(runtime_of(case), runtime_of(case))


class DictView:
    """A `View` of files in memory."""

    def __init__(self, files: Mapping[str, bytes | str]) -> None:
        self.files = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def names(self, directory: str) -> tuple[str, ...]:
        below = (path[len(directory) + 1 :] for path in self.files if path.startswith(f"{directory}/"))
        return tuple(sorted({name.partition("/")[0] for name in below}))


def view_of(case: str) -> DictView:
    root = HOSTS / case
    return DictView({f"/{p.relative_to(root)}": p.read_bytes() for p in root.rglob("*") if p.is_file()})


class Tree:
    """A copy of a case that can be installed on."""

    def __init__(self, root: Path, case: str | None = None) -> None:
        if case is not None:
            shutil.copytree(HOSTS / case, root, symlinks=True)
        root.mkdir(exist_ok=True)
        self.root = root
        self.disk = Disk(root)
        self.records = Records(self.disk, STATE)
        self.now = 1000.0
        self.applier = Applier(self.disk, self.records, lambda: self.now)

    def put(self, path: str, data: str | bytes) -> Path:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data.encode() if isinstance(data, str) else data)
        return file

    def get(self, path: str) -> str:
        return (self.root / path.lstrip("/")).read_text()

    def files(self) -> dict[str, bytes | None]:
        """Everything but our own records: files with content, directories with None."""
        found: dict[str, bytes | None] = {}
        for path in sorted(self.root.rglob("*")):
            name = f"/{path.relative_to(self.root)}"
            if not name.startswith("/var"):
                found[name] = None if path.is_dir() else path.read_bytes()
        return found
