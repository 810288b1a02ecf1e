"""Everything in here needs root and network namespaces, and may take longer than a unit test."""

import logging
from collections.abc import Iterator

import pytest

from sim.namespaces import Run
from tests.tools import require_netns

logging.getLogger("httpx").setLevel(logging.WARNING)  # the figures that tests log are not lost among requests


@pytest.fixture(scope="session")
def namespaces_work() -> None:
    require_netns()


@pytest.fixture
def owner(namespaces_work: None) -> Iterator[Run]:
    with Run() as run:
        yield run
