"""What an error of the store or the uplink is called between nodes."""

import pytest

from meshsat.errors import (
    DeniedError,
    DigestMismatchError,
    InvalidInputError,
    MeshsatError,
    NotFoundError,
    StorageError,
    StoreLockedError,
    UnavailableError,
)
from meshsat.mesh.sources import BlobStore, fault_of
from meshsat.protocol.events import Fault
from meshsat.protocol.wire import FrameError
from meshsat.store.store import Store
from tests.mesh.memory_store import MemoryStore


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (NotFoundError(""), Fault.NOT_FOUND),
        (DeniedError(""), Fault.DENIED),
        (DigestMismatchError(""), Fault.WRONG_BYTES),
        (InvalidInputError(""), Fault.WRONG_BYTES),
        (FrameError(""), Fault.WRONG_BYTES),
        (StorageError(""), Fault.STORAGE),
        (StoreLockedError(""), Fault.STORAGE),
        (UnavailableError(""), Fault.UNAVAILABLE),
        (MeshsatError(""), Fault.UNAVAILABLE),
    ],
)
def test_every_error_has_its_fault(error: MeshsatError, fault: Fault) -> None:
    assert fault_of(error) is fault


def test_the_store_and_its_twin_are_what_the_driver_takes() -> None:
    taken: list[type[BlobStore]] = [Store, MemoryStore]  # mypy compares every signature
    names = [name for name in vars(BlobStore) if not name.startswith("_")]
    assert all(hasattr(one, name) for one in taken for name in names)
