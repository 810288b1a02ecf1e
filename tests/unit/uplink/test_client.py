"""Manifests: bytes as they are, under the digest that was asked for, and no more of them than fit."""

import pytest

from meshsat.errors import DigestMismatchError, InvalidInputError, NotFoundError, UnavailableError
from meshsat.oci.digest import Digest
from tests.images import OCI_MANIFEST, descriptor, random_bytes
from tests.unit.uplink.conftest import REPOSITORY, Connect
from tests.upstream import Fault, Upstream


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("platforms", [("linux/amd64",), ("linux/amd64", "linux/arm/v7")])
async def test_by_tag_and_by_digest(
    docker: bool, platforms: tuple[str, ...], connect: Connect, up: Upstream
) -> None:
    image = up.add_image(REPOSITORY, "42", [b"layer"], platforms=platforms, docker=docker)
    async with connect(up) as wired:
        for reference in ("42", image.root):
            manifest = await wired.uplink.manifest(up.address, REPOSITORY, reference)
            assert (manifest.raw, str(manifest.digest)) == (image.raw, image.root)
            assert manifest.media_type == image.media_type
            assert manifest.is_index == (len(platforms) > 1)
    accepted = up.requests[0].headers["accept"]
    assert all(kind in accepted for kind in ("image.index.v1", "manifest.list.v2", OCI_MANIFEST))


async def test_wrong_bytes_by_digest(connect: Connect, up: Upstream) -> None:
    image = up.add_image(REPOSITORY, "42")
    up.add_fault(Fault("/manifests/", corrupt_at=3))
    async with connect(up) as wired:
        with pytest.raises(DigestMismatchError, match="sent bytes that are not sha256:"):
            await wired.uplink.manifest(up.address, REPOSITORY, image.root)


@pytest.mark.parametrize("by_digest", [True, False])
async def test_wrong_docker_content_digest(by_digest: bool, connect: Connect, up: Upstream) -> None:
    image = up.add_image(REPOSITORY, "42")
    reference = image.root if by_digest else "42"
    async with connect(up) as wired:
        up.add_fault(Fault("/manifests/", headers={"Docker-Content-Digest": str(Digest.of(b"other"))}))
        with pytest.raises(DigestMismatchError):
            await wired.uplink.manifest(up.address, REPOSITORY, reference)
        up.add_fault(Fault("/manifests/", headers={"Docker-Content-Digest": "md5:abc"}))
        with pytest.raises(InvalidInputError):
            await wired.uplink.manifest(up.address, REPOSITORY, reference)


async def test_too_long(connect: Connect, up: Upstream) -> None:
    up.add_image(REPOSITORY, "42", annotations={"x": "y" * 200_000})
    async with connect(up, manifest_limit=100_000) as wired:
        with pytest.raises(InvalidInputError, match="more than 100000 bytes"):
            await wired.uplink.manifest(up.address, REPOSITORY, "42")
        assert wired.wan_in < 10_000 + 65536, "refused by its length, not read"


@pytest.mark.parametrize("body", [b"<html>log in to the train's wifi</html>", b"", b"{}", random_bytes(1000)])
async def test_what_is_no_manifest(body: bytes, connect: Connect, up: Upstream) -> None:
    up.add_image(REPOSITORY, "42")
    fault = Fault("/manifests/", body=body, headers={"Docker-Content-Digest": str(Digest.of(body))})
    up.add_fault(fault)
    async with connect(up) as wired:
        with pytest.raises(InvalidInputError):
            await wired.uplink.manifest(up.address, REPOSITORY, "42")


async def test_part_of_a_manifest(connect: Connect, up: Upstream) -> None:
    image = up.add_image(REPOSITORY, "42")
    up.add_fault(Fault("/manifests/", cut_after=100))
    up.add_fault(Fault("/manifests/", status=206))
    async with connect(up) as wired:
        with pytest.raises(UnavailableError, match="status 206"):
            await wired.uplink.manifest(up.address, REPOSITORY, "42")
        assert len(wired.pauses) == 1
        assert (await wired.uplink.manifest(up.address, REPOSITORY, "42")).raw == image.raw


async def test_what_did_not_change_is_not_sent_again(connect: Connect, up: Upstream) -> None:
    image = up.add_image(REPOSITORY, "42", annotations={"x": "y" * 100_000})
    async with connect(up) as wired:
        known = await wired.uplink.manifest(up.address, REPOSITORY, "42")
        before, accepted = wired.wan_in, up.accepted
        assert await wired.uplink.manifest(up.address, REPOSITORY, "42", known) is known
        assert wired.wan_in - before < 2000
        assert up.accepted == accepted, "the connection serves again"
        assert up.requests[-1].headers["if-none-match"] == f'"{image.root}"'
        assert (
            wired.metrics.registry.get_sample_value(
                "meshsat_wan_requests_total", {"kind": "manifest", "outcome": "304"}
            )
            == 1.0
        )
        newer = up.add_image(REPOSITORY, "42", [b"newer"])
        assert str((await wired.uplink.manifest(up.address, REPOSITORY, "42", known)).digest) == newer.root
        assert len(up.requests) == 3


async def test_a_digest_is_never_asked_for_on_condition(connect: Connect, up: Upstream) -> None:
    """A registry may answer 304 to that without a look whether it has it."""
    image = up.add_image(REPOSITORY, "42")
    async with connect(up) as wired:
        known = await wired.uplink.manifest(up.address, REPOSITORY, "42")
        assert (await wired.uplink.manifest(up.address, REPOSITORY, image.root, known)).raw == image.raw
        assert "if-none-match" not in up.requests[-1].headers


@pytest.mark.parametrize(
    ("told", "believed"),
    [
        ({"ETag": 'W/"{}"'}, True),
        ({"ETag": "{}"}, True),
        ({"ETag": '"other"'}, False),
        ({"ETag": '"{}-gzip"'}, False),
        ({"Docker-Content-Digest": str(Digest.of(b"other"))}, False),
    ],
)
async def test_not_modified_counts_for_what_was_asked(
    told: dict[str, str], believed: bool, connect: Connect, up: Upstream
) -> None:
    image = up.add_image(REPOSITORY, "42")
    async with connect(up) as wired:
        known = await wired.uplink.manifest(up.address, REPOSITORY, "42")
        headers = {name: value.format(image.root) for name, value in told.items()}
        up.add_fault(Fault("/manifests/", skip=0, headers=headers))
        found = await wired.uplink.manifest(up.address, REPOSITORY, "42", known)
        assert (found is known) == believed
        assert found.raw == image.raw
        assert len(up.requests) == (2 if believed else 3)


async def test_a_304_that_nobody_asked_for_is_an_error(connect: Connect, up: Upstream) -> None:
    up.add_image(REPOSITORY, "42")
    up.add_fault(Fault("/manifests/", status=304))
    async with connect(up) as wired:
        with pytest.raises(UnavailableError, match="status 304"):
            await wired.uplink.manifest(up.address, REPOSITORY, "42")


async def test_referrers_page_by_page(connect: Connect, up: Upstream) -> None:
    image = up.add_image(REPOSITORY, "42")
    all_of_them = [descriptor(OCI_MANIFEST, bytes([n]), artifactType="a/sig") for n in range(7)]
    up.referrers = {image.root: [*all_of_them, descriptor("text/plain", b"no manifest")]}
    up.referrers_page = 3
    subject = Digest.parse_untrusted(image.root)
    async with connect(up) as wired:
        found = await wired.uplink.referrers(up.address, REPOSITORY, subject)
        assert [one.as_json() for one in found] == all_of_them
        assert len(up.asked("/referrers/")) == 3
        assert await wired.uplink.referrers(up.address, REPOSITORY, Digest.of(b"other")) == []
        up.referrers_page = 0  # each page leads to itself
        assert await wired.uplink.referrers(up.address, REPOSITORY, subject) == []
        assert len(up.asked("/referrers/")) == 4 + 16


@pytest.mark.parametrize("status", [400, 404, 405, 406, 501])
async def test_a_registry_without_the_referrers_api(status: int, connect: Connect, up: Upstream) -> None:
    image = up.add_image(REPOSITORY, "42")
    up.add_fault(Fault("/referrers/", status=status))
    async with connect(up) as wired:
        with pytest.raises(NotFoundError):
            await wired.uplink.referrers(up.address, REPOSITORY, Digest.parse_untrusted(image.root))
        assert wired.uplink.last_error is None


async def test_referrers_that_are_none(connect: Connect, up: Upstream) -> None:
    image = up.add_image(REPOSITORY, "42")
    up.referrers = {}
    async with connect(up, manifest_limit=10_000) as wired:
        for body in (b"<html>", b'{"manifests": [1]}', b" " * 10_001):
            up.add_fault(Fault("/referrers/", body=body))
            with pytest.raises(InvalidInputError):
                await wired.uplink.referrers(up.address, REPOSITORY, Digest.parse_untrusted(image.root))
        up.add_fault(Fault("/referrers/", headers={"Link": '<http://elsewhere.test/>; rel="next"'}))
        with pytest.raises(InvalidInputError, match="elsewhere"):
            await wired.uplink.referrers(up.address, REPOSITORY, Digest.parse_untrusted(image.root))
