"""What tests with real clients share."""

from collections.abc import Iterator

import pytest

from tests.clients.runtimes import short_directory
from tests.processes import Place


@pytest.fixture
def place() -> Iterator[Place]:
    with short_directory() as directory:
        made = Place(directory)
        try:
            yield made
        finally:
            made.close()
