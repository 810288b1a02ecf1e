"""What a test needs from the machine: tools on PATH, root, network namespaces.

Law: where it is missing, a test skips and says what was missing; where everything must be there (`CI=true`
or `MESHSAT_REQUIRE_ALL=1`), it fails instead, so that a skipped test is never taken for a passed one.
"""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parent.parent
DEBIAN_PACKAGES = {
    "docker-registry": "docker-registry",
    "skopeo": "skopeo",
    "podman": "podman",
    "buildah": "buildah",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "tc": "iproute2",
    "curl": "curl",
    "strace": "strace",
    "htpasswd": "apache2-utils",
    "git": "git",
    "systemd-analyze": "systemd",
}
"""Tool -> the Debian package that brings it, for the reason shown."""


def everything_required() -> bool:
    return os.environ.get("CI") == "true" or os.environ.get("MESHSAT_REQUIRE_ALL") == "1"


def miss(reason: str) -> NoReturn:
    """Skip the test for `reason`; fail it where everything must be there."""
    if everything_required():
        pytest.fail(f"{reason} (and CI=true or MESHSAT_REQUIRE_ALL=1 says that nothing may be missing)")
    pytest.skip(reason)


def require_tool(*names: str) -> None:
    """Go on only if every one of `names` is on PATH."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        packages = sorted({DEBIAN_PACKAGES.get(name, name) for name in missing})
        miss(f"needs {', '.join(missing)} on PATH; on Debian: apt-get install {' '.join(packages)}")


@cache
def tracked() -> tuple[Path, ...]:
    """Relative paths of all files of the project that are, or would be, committed."""
    require_tool("git")
    listed = subprocess.run(
        ("git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"),
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = (Path(name) for name in listed.stdout.split("\0") if name)
    return tuple(sorted(path for path in paths if (ROOT / path).is_file()))


def require_root() -> None:
    """Go on only as root: network namespaces, mounts, containers."""
    if os.geteuid() != 0:
        miss("needs root")


def require_netns() -> None:
    """Go on only where network namespaces, veth, bridges and tbf can be made."""
    require_root()
    require_tool("ip", "tc")
    name = f"meshsat-probe-{os.getpid()}"
    steps = (
        ("ip", "netns", "add", name),
        ("ip", "-n", name, "link", "add", "probe", "type", "veth", "peer", "name", "probe2"),
        ("ip", "-n", name, "link", "add", "bridge", "type", "bridge"),
        (
            "tc",
            "-n",
            name,
            "qdisc",
            "add",
            "dev",
            "probe",
            "root",
            "tbf",
            "rate",
            "1mbit",
            "burst",
            "16kb",
            "latency",
            "50ms",
        ),
    )
    try:
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, timeout=10, check=False)
            if done.returncode:
                miss(f"needs network namespaces: {' '.join(step)}: {done.stderr.strip()}")
    finally:
        subprocess.run(("ip", "netns", "delete", name), capture_output=True, timeout=10, check=False)
