import json
from importlib.metadata import version

from tests.unit.cli.conftest import Meshsat


def test_the_version_is_the_packages(meshsat: Meshsat) -> None:
    assert meshsat("version").out == f"meshsat {version('meshsat')}\n"
    assert json.loads(meshsat("version", "--json").out)["meshsat"] == version("meshsat")
