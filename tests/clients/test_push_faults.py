"""What goes wrong under a push: a full disk, kill -9, names that lead out. Real node processes, as root."""

import json
import os
import random
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conformance.conftest import lone_node, serving
from tests.conformance.registry import OCTETS, Registry, located, with_query
from tests.conformance.wire import BrokenOffError
from tests.images import OCI_MANIFEST, build_image, digest_of, random_bytes
from tests.processes import Node, Place, until
from tests.tools import require_root, require_tool

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(240)]

BROKEN = (BrokenOffError, BrokenPipeError, ConnectionResetError, ConnectionRefusedError)
IMAGE = build_image([random_bytes(100_000, seed=1)])
MEGABYTE = 1_000_000


def assert_serves(registry: Registry) -> None:
    assert registry.manifest("app", "1").body == IMAGE.raw
    for digest, data in IMAGE.blobs.items():
        assert registry.blob("app", digest).body == data


# --- a full disk ----------------------------------------------------------------------------------------------


@contextmanager
def small_disk(where: Path, megabytes: int) -> Iterator[Path]:
    require_root()
    where.mkdir()
    mounted = ("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(where))
    subprocess.run(mounted, check=True, timeout=10)
    try:
        yield where
    finally:
        subprocess.run(("umount", "--lazy", str(where)), check=True, timeout=10)


def test_a_full_disk_refuses_pushes_and_nothing_else(place: Place) -> None:
    """A status of its own for it, what is there is served all the time, and with room again pushes go on."""
    with small_disk(place.directory / "node", 24) as disk:
        node = lone_node(place)
        registry = serving(node)
        registry.push("app", IMAGE, "1")
        registry.push_blob("filler", random_bytes(6 * MEGABYTE, seed=2))
        stop, failures, reads = threading.Event(), list[str](), list[int]()
        reader = threading.Thread(target=read_on, args=(registry, stop, failures, reads))
        reader.start()
        try:
            data = random_bytes(30 * MEGABYTE, seed=3)
            for how in ("PUT", "PATCH", "POST"):
                status, codes = push_too_much(registry, how, data)
                assert status in {507, 0}, how
                assert status == 0 or codes == {"UNAVAILABLE"}
                assert registry.blob("app", digest_of(data), method="HEAD").status == 404
            assert_serves(registry)
            for path in (node.data_dir / "store" / "uploads").iterdir():
                place_of = f"/v2/app/blobs/uploads/{path.name}"
                assert registry.ask("DELETE", place_of).status in {204, 404}
            until("the room of the failed pushes is free", lambda: left_on(disk) > 8 * MEGABYTE)
            again = random_bytes(5 * MEGABYTE, seed=4)
            digest = registry.push_blob("app", again)
            assert registry.blob("app", digest).body == again
        finally:
            stop.set()
            reader.join(30)
        assert failures == []
        assert len(reads) > 5
        assert node.process is not None
        assert node.process.exit_code is None
        # And after a restart all is as it was.
        assert node.process.terminate()[0] == 0
        registry = serving(node)
        assert_serves(registry)
        assert registry.blob("app", digest).body == again
        node.process.kill()


def read_on(registry: Registry, stop: threading.Event, failures: list[str], reads: list[int]) -> None:
    while not stop.is_set():
        try:
            assert_serves(registry)
            reads.append(1)
        except (AssertionError, OSError, BrokenOffError) as failed:
            failures.append(repr(failed))
            return


def push_too_much(registry: Registry, how: str, data: bytes) -> tuple[int, set[str]]:
    """The refusal's status and codes; status 0 when the connection broke under what was still being sent."""
    place_of = "/v2/app/blobs/uploads/" if how == "POST" else located(registry.start("app"))
    target = place_of if how == "PATCH" else with_query(place_of, digest=digest_of(data))
    with suppress(*BROKEN):
        answer = registry.ask(how, target, [OCTETS], data)
        assert answer.status != 201
        return answer.status, answer.codes
    return 0, set()


def left_on(disk: Path) -> int:
    seen = os.statvfs(disk)
    return seen.f_bavail * seen.f_frsize


# --- kill -9 --------------------------------------------------------------------------------------------------


def test_a_node_that_is_killed_under_a_push(place: Place) -> None:
    """At moments from the first byte to the last: after the restart what was promised is there, what was not is
    resumed or gone, nothing wrong is served, and no space is lost."""
    chance = random.Random(5)
    node = lone_node(place)
    registry = serving(node)
    registry.push("app", IMAGE, "1")
    pushed: dict[str, bytes] = {}
    for number in range(8):
        data = random_bytes(16 * MEGABYTE, seed=100 + number)
        digest = digest_of(data)
        moment = chance.uniform(0.0, 0.06)  # the whole push takes about 0.1 s
        place_of, promised = push_until_killed(node, registry, data, moment, in_chunks=number % 2 == 0)
        registry = serving(node)
        assert_serves(registry)
        found = registry.blob("app", digest)
        assert found.status in {200, 404}
        assert found.status == 200 or not promised, "what was answered 201 is there"
        if found.status == 404:
            finish(registry, place_of, digest, data)
            found = registry.blob("app", digest)
        assert found.body == data
        pushed[digest] = data
        for known, bytes_of in pushed.items():
            assert registry.blob("app", known).body == bytes_of
    store = node.data_dir / "store"
    assert [*(store / "uploads").iterdir()] == []
    assert [*(store / "incoming").iterdir()] == []
    assert node.process is not None
    assert "Traceback" not in node.process.said


def push_until_killed(
    node: Node, registry: Registry, data: bytes, moment: float, *, in_chunks: bool
) -> tuple[str, bool]:
    """The upload's place, and whether it was answered 201 before the node died."""
    place_of = located(registry.start("app"))
    process = node.process
    assert process is not None
    killer = threading.Timer(moment, process.kill)
    promised = False
    killer.start()
    with suppress(*BROKEN):
        if in_chunks:
            for start in range(0, len(data), MEGABYTE):
                registry.patch(place_of, data[start : start + MEGABYTE], start)
            promised = registry.close(place_of, digest_of(data)).status == 201
        else:
            promised = registry.close(place_of, digest_of(data), data).status == 201
    killer.join()
    until("it is dead", lambda: process.exit_code is not None)
    return place_of, promised


def finish(registry: Registry, place_of: str, digest: str, data: bytes) -> None:
    """Go on where the node says it is; from the start where it knows nothing of it."""
    answer = registry.ask("GET", place_of)
    if answer.status == 404:
        registry.push_blob("app", data)
        return
    assert answer.status == 204
    end = int(answer["range"].removeprefix("0-")) + 1
    if end == 1:  # 0-0: one byte, or none
        assert registry.ask("DELETE", place_of).status == 204
        registry.push_blob("app", data)
        return
    if end < len(data):
        assert registry.patch(place_of, data[end:], end).status == 202
    assert registry.close(place_of, digest).status == 201


def test_a_node_that_is_killed_under_pushes_of_images(place: Place) -> None:
    """Whatever tag was answered 201 means a whole image after the restart; any other means one, or nothing."""
    chance = random.Random(6)
    node = lone_node(place)
    images = [build_image([random_bytes(60_000, seed=200 + number)]) for number in range(40)]
    promised: set[str] = set()
    for number in range(5):
        registry = serving(node)
        process = node.process
        assert process is not None
        killer = threading.Timer(chance.uniform(0.05, 0.5), process.kill)
        killer.start()
        with suppress(*BROKEN):
            for tag, image in enumerate(images):
                registry.push(f"round{number}", image, f"{tag}")
                promised.add(f"round{number}/{tag}")
        killer.join()
        process.kill()  # and has ended
    registry = serving(node)
    for number in range(5):
        for tag, image in enumerate(images):
            answer = registry.manifest(f"round{number}", f"{tag}")
            if answer.status == 404:
                assert f"round{number}/{tag}" not in promised
                continue
            assert (answer.status, answer.body) == (200, image.raw)
            for digest, data in image.blobs.items():
                assert registry.blob(f"round{number}", digest).body == data
    assert len(promised) > 5
    assert node.process is not None
    assert "Traceback" not in node.process.said


# --- names that lead out --------------------------------------------------------------------------------------

ESCAPES = ("..", "%2e%2e", "%2e%2e%2f%2e%2e%2fescaped", "..%2fescaped", "%00", "a%00b", "escaped" + "x" * 300,
           "%c0%ae%c0%ae", "%F0%9F%9A%80escaped", "\xe9scaped", "%5c..%5cescaped", "~escaped", "$(escaped)")  # fmt: skip


def test_names_that_lead_out_never_touch_the_disk(place: Place) -> None:
    """Under strace: no call about a file is made with anything of them in its path."""
    require_tool("strace")
    node = lone_node(place)
    registry = serving(node)
    registry.push("app", IMAGE, "1")
    assert node.process is not None
    calls = place.directory / "calls"
    options = ("-f", "-qq", "-e", "trace=%file", "-s", "4096", "-p", str(node.process.pid), "-o", str(calls))
    watcher = place.start("strace.log", "strace", *options)
    (blob, *_) = IMAGE.blobs

    def watched() -> bool:
        registry.push_blob("watched", f"{time.monotonic_ns()}".encode())
        return calls.exists() and "uploads" in calls.read_text(errors="replace")

    until("strace watches", watched)
    asked = 0
    for escape in ESCAPES:
        for method, target, body in (
            ("GET", f"/v2/{escape}/manifests/1", None),
            ("GET", f"/v2/app/{escape}/blobs/{blob}", None),
            ("GET", f"/v2/app/manifests/{escape}", None),
            ("GET", f"/v2/app/blobs/{escape}", None),
            ("GET", f"/v2/app/blobs/sha256:{escape}", None),
            ("GET", f"/v2/app/blobs/uploads/{escape}", None),
            ("GET", f"/v2/app/referrers/{escape}", None),
            ("GET", f"/v2/app/manifests/1?ns={escape}", None),
            ("PUT", f"/v2/{escape}/manifests/1", IMAGE.raw),
            ("PUT", f"/v2/app/manifests/{escape}", IMAGE.raw),
            ("PUT", f"/v2/app/manifests/{IMAGE.root}?tag={escape}", IMAGE.raw),
            ("POST", f"/v2/{escape}/blobs/uploads/", b""),
            ("POST", f"/v2/app/blobs/uploads/?mount={blob}&from={escape}", b""),
            ("POST", f"/v2/app/blobs/uploads/?digest={escape}", b"data"),
            ("PATCH", f"/v2/app/blobs/uploads/{escape}", b"data"),
            ("PUT", f"/v2/app/blobs/uploads/{escape}?digest={blob}", b"data"),
            ("DELETE", f"/v2/app/blobs/uploads/{escape}", None),
            ("DELETE", f"/v2/app/manifests/{escape}", None),
            ("DELETE", f"/v2/{escape}/blobs/{blob}", None),
        ):
            answer = registry.ask(method, target, [("Content-Type", OCI_MANIFEST)], body)
            assert answer.status in {400, 404, 405}, (method, target, answer)
            asked += 1
    hostile = IMAGE.raw.replace(blob.encode(), b"sha256:../../../escaped")
    assert registry.put("app", "2", hostile, OCI_MANIFEST).status == 400
    marker = registry.push_blob("watched", b"the last one")
    assert registry.blob("watched", marker).status == 200
    assert watcher.terminate()[0] in {0, -15, 130, 143}
    text = calls.read_text(errors="replace")
    paths = re.findall(r'"((?:[^"\\]|\\.)*)"', text)
    assert any("uploads" in path for path in paths), "what is honest was seen"
    assert not [path for path in paths if "escaped" in path or "/.." in path or "\\0" in path or "%" in path]
    inside = str(place.directory)
    written = [
        line for line in text.splitlines() if "O_WRONLY" in line or "O_RDWR" in line or "rename" in line
    ]
    strays = [line for line in written if inside not in line and "ENOENT" not in line and "/dev/" not in line]
    assert strays == []
    assert asked == 19 * len(ESCAPES)
    assert json.loads((node.data_dir / "store" / "oci-layout").read_text())
