"""The families: everything that meshsat raises on purpose can be caught as one."""

import inspect

import pytest

from meshsat import errors
from meshsat.errors import MeshsatError, StorageError, StoreLockedError, UnavailableError


def test_every_family_is_one() -> None:
    families = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    assert len(families) > 5
    assert all(issubclass(kind, MeshsatError) for kind in families)


def test_a_locked_store_is_a_fault_of_storage() -> None:
    with pytest.raises(StorageError):
        raise StoreLockedError("held by 42")


def test_unavailable_tells_when_to_ask_again_where_that_is_known() -> None:
    assert UnavailableError("busy", retry_after=3.0).retry_after == 3.0
    assert UnavailableError("gone").retry_after is None
