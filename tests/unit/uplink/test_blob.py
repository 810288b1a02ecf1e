"""Ranges of blobs through everything that a line and a registry can do to them."""

import gc
import gzip
import time
import warnings
from typing import Any

import pytest
import trio

from meshsat.errors import DeniedError, DigestMismatchError, NotFoundError, UnavailableError
from meshsat.oci.digest import Digest
from tests.unit.uplink.conftest import REPOSITORY, Connect
from tests.upstream import Fault, Upstream


@pytest.fixture
def up(up: Upstream, data: bytes) -> Upstream:
    up.add_blob(REPOSITORY, data)
    return up


def ranges(up: Upstream) -> list[str | None]:
    return [request.headers.get("range") for request in up.asked("/blobs/")]


@pytest.mark.parametrize(
    ("start", "stop"), [(0, None), (0, 1), (1, None), (65536, 65537), (700_000, None), (5, 5)]
)
async def test_any_range(start: int, stop: int | None, connect: Connect, up: Upstream, data: bytes) -> None:
    async with connect(up) as wired:
        assert await wired.read(up, data, start, stop) == data[start:stop]
    assert len(ranges(up)) == (0 if start == stop else 1)


async def test_ranges_of_no_blob(connect: Connect, up: Upstream, data: bytes) -> None:
    async with connect(up) as wired:
        for start, stop in ((-1, 5), (5, 4), (0, len(data) + 1)):
            with pytest.raises(ValueError, match="not within a blob of"):
                wired.uplink.blob(up.address, REPOSITORY, Digest.of(data), start, stop, len(data))


async def test_empty_and_sha512_blobs(connect: Connect, up: Upstream) -> None:
    digest = Digest.parse_untrusted(up.add_blob(REPOSITORY, b"five!", "sha512"))
    async with connect(up) as wired:
        assert await wired.read(up, b"") == b""
        assert await wired.read(up, b"five!", digest=digest) == b"five!"


async def test_broken_connections_are_resumed_where_they_broke(
    connect: Connect, up: Upstream, data: bytes
) -> None:
    for _ in range(10):
        up.add_fault(Fault("/blobs/", cut_after=50_000))
    async with connect(up, attempts=2) as wired:
        assert await wired.read(up, data) == data
        assert wired.wan_in < len(data) + 11 * 500
        assert len(wired.pauses) == 10
        assert max(wired.pauses) <= 0.25, "progress starts the back-off anew"
    assert ranges(up)[:3] == [None, "bytes=50000-700000", "bytes=100000-700000"]


async def test_without_progress_it_is_given_up(connect: Connect, up: Upstream, data: bytes) -> None:
    up.add_fault(Fault("/blobs/", skip=1, times=None, cut_after=0))
    up.add_fault(Fault("/blobs/", cut_after=1000))
    async with connect(up, attempts=3) as wired:
        with pytest.raises(UnavailableError, match=r"3 tries in a row failed"):
            await wired.read(up, data)
    assert ranges(up) == [None, *["bytes=1000-700000"] * 2]


async def test_stalls_are_broken_off_and_resumed(connect: Connect, up: Upstream, data: bytes) -> None:
    up.add_fault(Fault("/blobs/", stall_after=100_000))
    up.add_fault(Fault("/blobs/", stall_after=-1))
    async with connect(up, stall_timeout=0.15) as wired:
        assert await wired.read(up, data) == data
    assert ranges(up) == [None, *["bytes=100000-700000"] * 2]


@pytest.mark.parametrize("headers", [{"Content-Length": "700001"}, {"Transfer-Encoding": "identity"}])
async def test_early_end(headers: dict[str, str], connect: Connect, up: Upstream, data: bytes) -> None:
    up.add_fault(Fault("/blobs/", headers=headers, body=data[:1000], cut_after=10**6))
    async with connect(up) as wired:
        assert await wired.read(up, data) == data


async def test_registry_that_ignores_ranges(connect: Connect, up: Upstream, data: bytes) -> None:
    up.add_fault(Fault("/blobs/", times=None, ignore_range=True))
    async with connect(up) as wired:
        assert not wired.uplink.ignores_ranges(up.address)
        blob = wired.uplink.blob(up.address, REPOSITORY, Digest.of(data), 300_000, 400_000, len(data))
        async with blob as stream:
            assert b"".join([piece async for piece in stream]) == data[300_000:400_000]
        assert stream.skipped == 300_000
        assert wired.uplink.ignores_ranges(up.address)
        assert 400_000 < wired.wan_in < 600_000, "what comes after is not waited for"


async def test_registry_that_ignores_ranges_and_cuts(connect: Connect, up: Upstream, data: bytes) -> None:
    up.add_fault(Fault("/blobs/", cut_after=200_000))
    up.add_fault(Fault("/blobs/", times=None, ignore_range=True))
    async with connect(up) as wired:
        assert await wired.read(up, data) == data


@pytest.mark.parametrize("shift", [-100, 100])
async def test_another_range_than_asked(shift: int, connect: Connect, up: Upstream, data: bytes) -> None:
    up.add_fault(Fault("/blobs/", range_shift=shift))
    async with connect(up) as wired:
        assert await wired.read(up, data, 5000, 9000) == data[5000:9000]
        assert len(wired.pauses) == (1 if shift > 0 else 0), (
            "an earlier start is skipped, a later one is of no use"
        )


@pytest.mark.parametrize("content_range", ["bytes 0-9", "bytes 9-0/700001", "", "bytes 0-5000/*"])
async def test_content_range_of_no_use(
    content_range: str, connect: Connect, up: Upstream, data: bytes
) -> None:
    up.add_fault(Fault("/blobs/", headers={"Content-Range": content_range}))
    async with connect(up) as wired:
        assert await wired.read(up, data, 5001, 9000) == data[5001:9000]
        assert len(wired.pauses) == 1


async def test_more_bytes_than_asked(connect: Connect, up: Upstream, data: bytes) -> None:
    whole = {"Content-Range": f"bytes 5000-700000/{len(data)}"}
    up.add_fault(Fault("/blobs/", status=206, headers=whole, body=data[5000:]))
    up.add_fault(Fault("/blobs/", extra=b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"))
    async with connect(up) as wired:
        for tries in (0, 0, 1):  # what was left over by the second is taken for an answer by nobody
            assert await wired.read(up, data, 5000, 9000) == data[5000:9000]
            assert len(wired.pauses) == tries


@pytest.mark.parametrize(
    ("fault", "size"),
    [
        (Fault("/blobs/", headers={"Content-Range": "bytes 5000-8999/700002"}, times=None), 700_002),
        (Fault("/blobs/", ignore_range=True, body=b"<html>log in to the train's wifi", times=None), 32),
        (Fault("/blobs/", status=416, headers={"Content-Range": "bytes */4000"}, times=None), 4000),
    ],
)
async def test_a_blob_of_another_size_is_refused(
    fault: Fault, size: int, connect: Connect, up: Upstream, data: bytes
) -> None:
    up.add_fault(fault)
    async with connect(up) as wired:
        with pytest.raises(
            DigestMismatchError, match=f"has 700001 bytes, but http://{up.address} has {size} under"
        ):
            await wired.read(up, data, 5000, 9000)
    assert len(ranges(up)) == 1


async def test_content_coding_is_not_undone(connect: Connect, up: Upstream) -> None:
    """Storage often says so of layers, which are gzip: the digest is that of the bytes as they are."""
    layer = gzip.compress(bytes(100_000))
    up.add_blob(REPOSITORY, layer)
    up.add_fault(Fault("/blobs/", headers={"Content-Encoding": "gzip"}))
    async with connect(up) as wired:
        assert await wired.read(up, layer) == layer
    assert up.requests[0].headers["accept-encoding"] == "identity"


async def test_wrong_bytes_are_left_to_the_reader(connect: Connect, up: Upstream, data: bytes) -> None:
    up.add_fault(Fault("/blobs/", corrupt_at=10))
    async with connect(up) as wired:
        read = await wired.read(up, data)
    assert read != data
    assert not Digest.of(data).matches(read)


async def test_missing_and_denied(connect: Connect, up: Upstream, data: bytes) -> None:
    async with connect(up) as wired:
        with pytest.raises(NotFoundError, match=r"has no blob sha256:.* of library/pos"):
            await wired.read(up, b"unknown")
        up.add_fault(Fault("/blobs/", status=403))
        with pytest.raises(DeniedError):
            await wired.read(up, data)


async def test_connections_are_kept_and_bounded(connect: Connect, up: Upstream, data: bytes) -> None:
    async with connect(up, connections=3) as wired:
        for _ in range(3):
            assert await wired.read(up, data, 100, 200) == data[100:200]
        assert up.accepted == 1

        async def read(n: int) -> None:
            assert await wired.read(up, data, n, n + 50_000) == data[n : n + 50_000]

        async with trio.open_nursery() as nursery:
            for n in range(12):
                nursery.start_soon(read, n)
        assert up.accepted <= 3
        manifest_waits_for_no_blob = up.add_image(REPOSITORY, "42")
        blobs = [
            wired.uplink.blob(up.address, REPOSITORY, Digest.of(data), 0, 9, len(data)) for _ in range(3)
        ]
        for blob in blobs:
            await anext(blob)
        with trio.fail_after(5):
            found = await wired.uplink.manifest(up.address, REPOSITORY, "42")
        assert found.raw == manifest_waits_for_no_blob.raw
        for blob in blobs:
            async with blob:
                pass


async def gone(up: Upstream) -> None:
    with trio.fail_after(5):
        while up.connections:
            await trio.sleep(0.005)


@pytest.mark.parametrize("how", ["cancelled", "left"])
async def test_a_reader_that_goes_stops_the_bytes(
    how: str, connect: Connect, up: Upstream, data: bytes
) -> None:
    up.rate = 400_000
    async with connect(up) as wired:
        scope = trio.CancelScope()
        with scope:
            async with wired.uplink.blob(
                up.address, REPOSITORY, Digest.of(data), 0, len(data), len(data)
            ) as stream:
                async for _ in stream:
                    if how == "cancelled":
                        scope.cancel()
                    else:
                        break
        began = time.monotonic()
        await gone(up)
        assert time.monotonic() - began < 1
        assert up.body_bytes < 200_000
        up.rate = None
        assert await wired.read(up, data) == data


async def test_nothing_is_left_to_the_garbage_collector(connect: Connect, up: Upstream, data: bytes) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with connect(up) as wired:
            async with wired.uplink.blob(
                up.address, REPOSITORY, Digest.of(data), 0, len(data), len(data)
            ) as stream:
                await anext(stream)
            up.add_fault(Fault("/blobs/", cut_after=70_000))
            await wired.read(up, data)
        gc.collect()
        await trio.sleep(0)
    assert [
        str(warning.message) for warning in caught if "uplink" in str(warning) or "httpcore" in str(warning)
    ] == []


async def test_sizes(connect: Connect, up: Upstream, data: bytes) -> None:
    async with connect(up) as wired:
        size: Any = wired.uplink.blob_size
        assert await size(up.address, REPOSITORY, Digest.of(data)) == len(data)
        up.add_fault(Fault("/blobs/", method="HEAD", headers={"Transfer-Encoding": "chunked"}))
        assert await size(up.address, REPOSITORY, Digest.of(data)) == len(data)
        with pytest.raises(NotFoundError):
            await size(up.address, REPOSITORY, Digest.of(b"unknown"))
