import subprocess
import sys

from meshsat.cli.main import app
from tests.unit.cli.conftest import Meshsat

VERBS = (
    "node",
    "init",
    "invite",
    "join",
    "certificate",
    "login",
    "logout",
    "pull",
    "export",
    "import",
    "status",
    "peers",
    "images",
    "desired",
    "wan",
    "plan",
    "reload",
    "gc",
    "version",
    "demo",
    "shadow",
)
HEAVY = {"libp2p", "trio", "structlog", "cryptography", "zeroconf", "starlette"}


def test_the_verbs_are_the_documented_ones() -> None:
    assert {command.name for command in app.registered_commands} == set(VERBS)


def test_help_names_every_verb_and_ends_well(meshsat: Meshsat) -> None:
    ended = meshsat("--help")
    assert ended.code == 0
    assert all(f"  {verb} " in ended.out for verb in VERBS)
    assert "..." not in ended.out.partition("Commands:")[2]  # each verb's line is whole


def test_an_unknown_verb_is_misuse(meshsat: Meshsat) -> None:
    ended = meshsat("frobnicate")
    assert ended.code == 2
    assert "frobnicate" in ended.err


def test_asking_a_node_imports_nothing_heavy() -> None:
    """`status` has to answer at once, also on a small machine; py-libp2p alone takes a second."""
    program = f"""
import sys
from meshsat.cli.main import main
for verb in ("status", "peers", "images", "pull"):
    sys.argv = ["meshsat", verb, "--data-dir", "/nonexistent", *(["x"] if verb == "pull" else [])]
    try:
        main()
    except SystemExit as end:
        assert end.code == 1
print(*({HEAVY!r} & set(sys.modules)))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []
