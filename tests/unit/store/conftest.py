from pathlib import Path

import pytest

from meshsat.store import disk
from meshsat.store.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An empty data directory."""
    made = Layout(tmp_path)
    disk.make_directories(made.directories)
    return made
