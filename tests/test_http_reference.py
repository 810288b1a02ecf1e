"""Every endpoint of the node is documented in docs/reference/http.md, and nothing else is."""

import re
from pathlib import Path
from typing import get_args

from starlette.routing import Route as ApiRoute

from meshsat.registry import routes
from meshsat.registry.app import METHODS
from meshsat.registry.errors import Code
from meshsat.web.api import FAULTS, create_api
from tests.unit.web.test_api import View

TEXT = (Path(__file__).parents[1] / "docs" / "reference" / "http.md").read_text()
HEADINGS = set(re.findall(r"^### `([A-Z]+(?:, [A-Z]+)*) (/\S*)`", TEXT, re.MULTILINE))


def test_every_route_of_the_api_has_its_heading() -> None:
    api: set[tuple[str, str]] = set()
    for route in create_api(View()).routes:
        assert isinstance(route, ApiRoute)
        api.update((method, route.path) for method in (route.methods or set()) - {"HEAD"})
    documented = {(methods, path) for methods, path in HEADINGS if not path.startswith(("/v2", "/token"))}
    assert documented == api


def test_every_route_of_the_registry_has_its_heading() -> None:
    """A route's docstring begins with its path."""
    registry = {
        (re.findall(r"`(/v2/[^`?]*)", kind.__doc__)[0], METHODS[kind]) for kind in get_args(routes.Route)
    }
    documented = {
        (path, frozenset(methods.split(", "))) for methods, path in HEADINGS if path.startswith("/v2")
    }
    assert documented == registry


def test_every_error_code_is_documented() -> None:
    for code in [*Code, *(code for _, _, code in FAULTS)]:
        assert f"`{code}`" in TEXT
