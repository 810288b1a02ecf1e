"""What is exported and imported is the same, whatever it is, wherever it is written."""

import io
import itertools
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from meshsat.bundle.sources import open_pipe
from meshsat.oci.digest import Digest
from meshsat.oci.reference import Reference
from tests.bundle_place import MemoryPlace, everything, failures, read, write
from tests.images import Image, build_artifact, build_image, descriptor

FEW = settings(max_examples=40)
PLAIN = st.one_of(st.binary(max_size=40), st.binary(min_size=500, max_size=1500)).filter(
    lambda data: not data.startswith(b"\x1f\x8b")  # build_image would take it for gzip
)
LAYERS = st.lists(PLAIN, max_size=4)
PLATFORMS = st.lists(
    st.sampled_from(["linux/amd64", "linux/arm64", "linux/arm/v7"]), min_size=1, max_size=3, unique=True
)
IMAGES = st.builds(build_image, LAYERS, PLATFORMS, docker=st.booleans(), index=st.sampled_from([None, True]))
NAMES = st.sampled_from(["reg.test/a", "reg.test:5000/a/b", "docker.io/library/c", "site.internal/d"])
MOMENTS = st.one_of(st.none(), st.integers(0, 2**40).map(lambda number: number / 1000))
_numbers = itertools.count()


@st.composite
def places(draw: st.DrawFn) -> tuple[MemoryPlace, list[str]]:
    """Images under names, some of them with what refers to them."""
    place, names = MemoryPlace(), []
    held: list[Image] = draw(st.lists(IMAGES, min_size=1, max_size=3))
    for number, image in enumerate(held):
        name = draw(NAMES)
        names.append(f"{name}:v{number}")
        place.hold(image, names[-1], draw(MOMENTS))
        if draw(st.booleans()):
            about = build_artifact(
                draw(st.binary(max_size=20)), "a/b", descriptor(image.media_type, image.raw)
            )
            place.hold(about, f"{name}@{about.root}")
        if draw(st.booleans()):
            place.hold(build_image([b"signature"]), f"{name}:sha256-{image.root[7:]}.sig", draw(MOMENTS))
    return place, names


def fresh(tmp_path_factory: Any, suffix: str = "") -> Path:
    path: Path = tmp_path_factory.getbasetemp() / f"bundle-{next(_numbers)}{suffix}"
    return path


@FEW
@given(places(), st.booleans())
def test_as_an_archive(tmp_path_factory: Any, given_place: tuple[MemoryPlace, list[str]], zstd: bool) -> None:
    here, names = given_place
    path = write(here, fresh(tmp_path_factory, ".tar"), *names, zstd=zstd)
    for source in (path, open_pipe(io.BytesIO(path.read_bytes()))):
        there = MemoryPlace()
        assert not failures(read(there, source))
        assert everything(there) == everything(here)
    again = write(here, fresh(tmp_path_factory, ".tar"), *names, zstd=zstd)
    assert again.read_bytes() == path.read_bytes()


@FEW
@given(st.lists(places(), min_size=1, max_size=3))
def test_as_a_directory_that_is_refreshed(
    tmp_path_factory: Any, months: list[tuple[MemoryPlace, list[str]]]
) -> None:
    path = fresh(tmp_path_factory)
    for here, names in months:
        there = MemoryPlace()
        assert not failures(read(there, write(here, path, *names)))
        assert everything(there) == everything(here)
        files = [one for one in (path / "blobs").rglob("*") if one.is_file()]
        listed = {digest for _, digest in here.manifests} | here.blobs.keys()
        assert len(files) - len(listed) in (0, 1)  # with the list of what refers to the images


@FEW
@given(LAYERS, LAYERS, LAYERS)
def test_since(tmp_path_factory: Any, shared: list[bytes], old: list[bytes], new: list[bytes]) -> None:
    here = MemoryPlace()
    before, after = build_image([*shared, *old]), build_image([*shared, *new])
    here.hold(before, "reg.test/a:0", 1.0)
    here.hold(after, "reg.test/a:1", 2.0)
    since = [Reference.parse_untrusted("reg.test/a:0")]
    path = write(here, fresh(tmp_path_factory, ".tar"), "reg.test/a:1", since=since)
    there = MemoryPlace()
    there.hold(before, "reg.test/a:0", 1.0)
    assert not failures(read(there, path))
    assert everything(there) == everything(here)
    assert {str(digest) for digest in there.puts} <= after.contents.keys()
    assert not set(map(Digest.parse_untrusted, before.blobs)) & set(there.puts)
