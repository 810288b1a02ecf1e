"""What the figures were measured on: enough to compare, nothing that names the machine or its owner."""

import importlib.metadata
import os
import platform
import re
import ssl
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("meshsat", "trio", "libtorrent")


def describe() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release().partition("-")[0],
        "congestion_control": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        **{name: _version(name) for name in PACKAGES},
        "docker_registry": _docker_registry(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str | None:
    found = re.search(r"^model name\s*: (.*)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return found[1] if found else None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _docker_registry() -> str | None:
    try:
        said = subprocess.run(
            ("docker-registry", "--version"), capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip().rpartition(" ")[2] or None
