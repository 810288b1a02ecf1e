"""The runtimes that are known: how each is found, what plans its files, how it is made to read them again.

Runtimes that read the same files share a *place*: it is installed once for all that ask for it, and taken
away with the last of them.
"""

from dataclasses import dataclass

from meshsat.errors import InvalidInputError
from meshsat.runtime import containerd, containers, docker, rancher
from meshsat.runtime.plans import Planner

RESTART, RELOAD = "restart", "reload"


@dataclass(frozen=True, slots=True)
class Wake:
    """How a daemon is made to read its files again."""

    action: str
    units: tuple[str, ...]
    """systemd's names for it; the first that is active is meant."""
    processes: tuple[str, ...]
    """What the kernel calls the daemon; as with units, the first that runs is meant."""


@dataclass(frozen=True, slots=True)
class Runtime:
    name: str
    place: str
    binaries: tuple[str, ...]
    sockets: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()
    """Files and directories that only an installed one has."""
    wake: Wake | None = None
    """None: it reads its files each time."""


BINARIES = ("/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin", "/opt/bin", "/bin")
RUNTIMES = (
    Runtime(
        "containerd",
        "containerd",
        ("containerd",),
        ("/run/containerd/containerd.sock",),
        ("/etc/containerd",),
        Wake(RESTART, ("containerd",), ("containerd",)),
    ),
    Runtime(
        "k3s",
        "k3s",
        ("k3s",),
        ("/run/k3s/containerd/containerd.sock",),
        ("/etc/rancher/k3s", "/var/lib/rancher/k3s"),
        Wake(RESTART, ("k3s", "k3s-agent"), ("k3s-server", "k3s-agent")),
    ),
    Runtime(
        "rke2",
        "rke2",
        ("rke2",),
        (),
        ("/etc/rancher/rke2", "/var/lib/rancher/rke2"),
        Wake(RESTART, ("rke2-server", "rke2-agent"), ("rke2",)),
    ),
    Runtime("podman", "containers", ("podman", "buildah", "skopeo"), ("/run/podman/podman.sock",)),
    Runtime(
        "cri-o",
        "containers",
        ("crio",),
        ("/run/crio/crio.sock", "/var/run/crio/crio.sock"),
        ("/etc/crio",),
        Wake(RELOAD, ("crio", "cri-o"), ("crio",)),
    ),
    Runtime(
        "docker",
        "docker",
        ("dockerd",),
        ("/run/docker.sock", "/var/run/docker.sock"),
        ("/etc/docker/daemon.json",),
        Wake(RELOAD, ("docker",), ("dockerd",)),
    ),
)
PLANNERS: dict[str, Planner] = {
    "containerd": containerd.plan,
    "k3s": rancher.planner("k3s"),
    "rke2": rancher.planner("rke2"),
    "containers": containers.plan,
    "docker": docker.plan,
}
NAMES = tuple(runtime.name for runtime in RUNTIMES)
ALIASES = {"crio": "cri-o", "buildah": "podman", "skopeo": "podman", "dockerd": "docker"}


def runtime_untrusted(name: str) -> Runtime:
    """The runtime that people call `name`. Raises `InvalidInputError`."""
    wanted = ALIASES.get(name.lower(), name.lower())
    for runtime in RUNTIMES:
        if runtime.name == wanted:
            return runtime
    raise InvalidInputError(f"runtime {name[:40]!r} is none of those known: {', '.join(NAMES)}")
