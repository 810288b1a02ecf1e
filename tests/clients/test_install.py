"""The set-up of `make demo` on a machine without a compiler: a fresh environment from the locked list.

Needs a package index; the machine's own pip configuration says which.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import ROOT, require_tool, tracked

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(300)]

COMPILER = re.compile(
    r"(.*-)?(gcc|g\+\+|cc|c\+\+|cpp|c[89]9(-gcc)?|clang(\+\+)?|tcc|as|ld|rustc|cargo|rustup|go|gfortran)(-[\d.]+)?"
)


def path_without_compilers(directory: Path) -> str:
    """One directory of links to everything on PATH but compilers, assemblers and linkers."""
    directory.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for tool in Path(place).glob("*"):
            link = directory / tool.name
            if not COMPILER.fullmatch(tool.name) and not link.is_symlink():
                link.symlink_to(tool)
    return str(directory)


def copy_of_the_tree(directory: Path) -> Path:
    """What a clone would hold."""
    for path in tracked():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, directory / path)
    return directory


def test_the_set_up_of_the_demo_needs_no_compiler(tmp_path: Path) -> None:
    require_tool("make", "git")
    tree = copy_of_the_tree(tmp_path / "tree")
    search = path_without_compilers(tmp_path / "bin")
    for compiler in ("gcc", "cc", "g++", "x86_64-linux-gnu-gcc", "clang", "rustc", "cargo"):
        assert shutil.which(compiler, path=search) is None
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    environment |= {"PATH": search, "PIP_NO_CACHE_DIR": "1"}
    python = getattr(sys, "_base_executable", sys.executable)  # outside any environment
    made = subprocess.run(
        ("make", f"PYTHON={python}", ".venv/run.stamp"),
        cwd=tree, env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    asked = subprocess.run(
        (tree / ".venv/bin/meshsat", "--help"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    assert "pull" in asked.stdout
    again = subprocess.run(
        ("make", f"PYTHON={python}", ".venv/run.stamp"),
        cwd=tree, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "up to date" in again.stdout
