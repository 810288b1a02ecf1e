"""Hostile requests to a real node over a real socket. Whatever comes: an answer with a documented status in
time or a closed connection, no 500, no traceback, nothing written outside the store, and the node still serves.
"""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.clients.runtimes import short_directory
from tests.conformance.conftest import lone_node, serving
from tests.conformance.registry import Registry, located
from tests.conformance.wire import Answer, BrokenOffError
from tests.fuzz.hostile_requests import BLOBS, REPOSITORIES, Request, make_manifest, make_request
from tests.images import OCI_INDEX, OCI_MANIFEST, build_image, random_bytes
from tests.processes import Node, Place

pytestmark = pytest.mark.slow
log = logging.getLogger(__name__)

DOCUMENTED = {
    200,
    201,
    202,
    204,
    206,
    304,
    400,
    403,
    404,
    405,
    411,
    413,
    414,
    416,
    417,
    429,
    431,
    501,
    503,
    505,
}
"""docs/reference/http.md, and those of the HTTP server below it."""
SLOWEST = 10.0
"""Seconds for an answer, on a machine that is busy with other tests."""
LONG_RUN = 20_000
IN_DATA_DIR = re.compile(
    r"(identity|store|audit)(/.*)?|api\.sock|[\w.-]+\.(sqlite|db)(-\w+)?|lock|[\w-]+\.(json|toml|cbor)"
)
IN_STORE = re.compile(
    r"oci-layout|index\.json|lock|state\.sqlite[\w.-]*|blobs(/sha256(/[0-9a-f]{64})?|/sha512(/[0-9a-f]{128})?)?"
    r"|(partial|quarantine)(/sha(256|512)-[0-9a-f]+)?|incoming(/[\w.-]+)?|uploads(/[0-9a-f]{32})?"
)
IMAGE = build_image([random_bytes(2000, seed=1)])


class Target:
    """A node, and what must hold for it at any time."""

    def __init__(self, place: Place, node: Node, registry: Registry) -> None:
        self.registry = registry
        self._place = place
        self._node = node
        self.places: list[str] = []
        registry.push("fuzz/whole", IMAGE, "1")
        for data in BLOBS:
            for algorithm in ("sha256", "sha512"):
                registry.push_blob(REPOSITORIES[0], data, algorithm)
        self._beside = self._outside()

    def _outside(self) -> set[Path]:
        """What there is beside the data directory."""
        every = set(self._place.directory.rglob("*"))
        return {path for path in every if not path.is_relative_to(self._node.data_dir)}

    def refill(self) -> None:
        """Uploads to play with; some end with each request that finds one."""
        with suppress(AssertionError):  # all slots may be taken
            while len(self.places) < 4:
                self.places.append(located(self.registry.start(REPOSITORIES[0])))

    def send(self, request: Request) -> Answer | None:
        """The answer; None when the connection was closed without one, or waits for more than was sent."""
        began = time.monotonic()
        answer = None
        with self.registry.connect() as connection, suppress(BrokenPipeError, ConnectionResetError):
            connection.send(request.raw)
            if not request.whole:
                connection.shut()
            with suppress(BrokenOffError):
                answer = connection.read(request.method)
                assert answer.status in DOCUMENTED, (request, answer)
                if answer.body and answer.status >= 400 and answer.get("content-type") == "application/json":
                    assert answer.codes
        assert time.monotonic() - began < SLOWEST, request
        return answer

    def assert_whole(self) -> None:
        answer = self.registry.manifest("fuzz/whole", "1")
        assert (answer.status, answer.body) == (200, IMAGE.raw)
        for digest, data in IMAGE.blobs.items():
            assert self.registry.blob("fuzz/whole", digest).body == data
        assert self._node.process is not None
        assert self._node.process.exit_code is None
        _, found, trace = self._node.process.said.partition("Traceback")
        assert not found, trace[:5000]
        assert self._outside() == self._beside
        store = self._node.data_dir / "store"
        for path in self._node.data_dir.rglob("*"):
            if path.is_relative_to(store):
                inside = str(path.relative_to(store))
                assert inside == "." or IN_STORE.fullmatch(inside), path
            else:
                assert IN_DATA_DIR.fullmatch(str(path.relative_to(self._node.data_dir))), path


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with short_directory() as directory:
        place = Place(directory)
        try:
            rights = {"push": True, "delete": True, "uploads": 1000, "upload_timeout": 5.0}
            node = lone_node(place, rights)
            made = Target(place, node, serving(node))
            yield made
            made.assert_whole()
        finally:
            place.close()


FEW = settings(max_examples=150, suppress_health_check=list(HealthCheck))


@FEW
@given(st.randoms(use_true_random=False))
def test_a_request_of_any_form(target: Target, chance: Random) -> None:
    target.refill()
    target.send(make_request(chance, target.places))
    assert target.registry.ask("GET", "/v2/").status == 200


@FEW
@given(st.binary(max_size=400), st.booleans())
def test_any_bytes(target: Target, data: bytes, ended: bool) -> None:
    target.send(Request(data + (b"\r\n\r\n" if ended else b""), b"", "GET", whole=False))
    assert target.registry.ask("GET", "/v2/").status == 200


@FEW
@given(st.randoms(use_true_random=False), st.sampled_from([OCI_MANIFEST, OCI_INDEX]))
def test_a_manifest_of_any_form(target: Target, chance: Random, media_type: str) -> None:
    """What is taken is served, byte for byte, under its own digest; what is not leaves nothing."""
    raw = make_manifest(chance)
    answer = target.registry.put("fuzz/app", "mutated", raw, media_type)
    assert answer.status in {201, 400}, (raw, answer)
    if answer.status == 201:
        pulled = target.registry.ask("GET", located(answer))
        assert (pulled.status, pulled.body) == (200, raw)
        assert target.registry.delete("fuzz/app", answer["docker-content-digest"]).status == 202


@pytest.mark.timeout(600)
def test_many_requests(target: Target) -> None:
    """The figures are in the log: `pytest --log-cli-level=info`."""
    chance = Random(20_000)
    statuses: dict[int, int] = {}
    began = time.monotonic()
    for number in range(LONG_RUN):
        if number % 50 == 0:
            target.places = target.places[-3:] if number % 500 else []
            target.refill()
        answer = target.send(make_request(chance, target.places))
        status = answer.status if answer is not None else 0
        statuses[status] = statuses.get(status, 0) + 1
    seconds = time.monotonic() - began
    log.info("%d requests in %.1f s: %s", LONG_RUN, seconds, dict(sorted(statuses.items())))
    target.assert_whole()
    assert {200, 201, 202, 204, 206, 400, 404, 405, 416} <= set(statuses), "it reaches deep"
