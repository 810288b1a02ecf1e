"""The registry that is asked: one node for all tests here, or any registry by `MESHSAT_CONFORMANCE_REGISTRY`."""

import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.clients.runtimes import short_directory
from tests.conformance.registry import Registry
from tests.processes import Node, Place, until

ELSEWHERE = os.environ.get("MESHSAT_CONFORMANCE_REGISTRY")
ALL_RIGHTS: Mapping[str, Any] = {"push": True, "delete": True}


def serving(node: Node) -> Registry:
    """Started, and asked as soon as it answers: it need not wait for peers."""
    node.start()
    until(f"{node.name} answers", lambda: node.ask("/api/v1/status"))
    return Registry(node.status()["registry_address"])


def alone(registry: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The sections of a dark node without peers."""
    return {"uplink": {"enabled": False}, "mesh": {"mdns": False}, "registry": registry}


def lone_node(place: Place, registry: Mapping[str, Any] = ALL_RIGHTS) -> Node:
    """Initialized, and not yet started. `registry`: its section."""
    node = Node(place, "node", alone(registry))
    node.run("init", "conformance")
    return node


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    if ELSEWHERE:
        yield Registry(ELSEWHERE)
        return
    with short_directory() as directory:
        place = Place(directory)
        try:
            yield serving(lone_node(place))
        finally:
            place.close()


@pytest.fixture
def place() -> Iterator[Place]:
    """For tests that need nodes of their own: with other settings, or to be stopped."""
    if ELSEWHERE:
        pytest.skip("about a node's own settings, and another registry is asked")
    with short_directory() as directory:
        made = Place(directory)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A repository that no other test writes to."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:60].strip("-")
    own = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]
    again = f"{time.time_ns():x}/" if ELSEWHERE else ""
    return f"conformance/{again}{name}-{own}"
