"""What is looked at as a signature: where it lies, and no more than may be."""

from pathlib import Path

import trio
from trio.testing import MockClock

from meshsat.evidence import REFERRERS_LIMIT, SIGNATURES_LIMIT, Held, signatures_of
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from meshsat.oci.referrers import fallback_tag
from meshsat.store.records import TagRecord
from meshsat.store.store import Store
from meshsat.trust.cosign import BUNDLE_LIMIT, PAYLOAD_LIMIT
from tests import signing
from tests.images import Image, build_artifact, build_image, descriptor
from tests.signing import make_key, payload_for, signature_tag, signed_by

KEY = make_key()
IMAGE = build_image([b"layer"])
SUBJECT = Digest.parse_untrusted(IMAGE.root)
PLACE = ("up.example", "library/pos")


def parsed(image: Image) -> Manifest:
    return parse_manifest_untrusted(image.raw, image.media_type)


class Given:
    """A source of what a test gives; counts what it is asked for."""

    def __init__(self, *images: Image, **tags: Image) -> None:
        self.tags = tags
        self.contents = {digest: data for image in images for digest, data in image.contents.items()}
        self.asked: list[str] = []
        self.referrers: list[Descriptor] = []

    async def tagged(self, registry: str, repository: str, tag: str) -> Manifest | None:
        self.asked.append(tag)
        image = {"sig": signature_tag(IMAGE.root), "listing": fallback_tag(SUBJECT)}
        found = [self.tags[name] for name, place in image.items() if place == tag and name in self.tags]
        return parsed(found[0]) if found else None

    async def manifest(self, registry: str, repository: str, listed: Descriptor) -> Manifest | None:
        self.asked.append(str(listed.digest))
        raw = self.contents.get(str(listed.digest))
        return None if raw is None else parse_manifest_untrusted(raw)

    async def blob(self, registry: str, repository: str, blob: Descriptor) -> bytes | None:
        self.asked.append(str(blob.digest))
        return self.contents.get(str(blob.digest))

    def referring(self, registry: str, repository: str, subject: Digest) -> list[Descriptor]:
        return self.referrers


async def found(source: Given | Held, subject: Digest = SUBJECT) -> list[tuple[bytes, bool]]:
    return [
        (signed.data, signed.signature is not None) async for signed in signatures_of(source, *PLACE, subject)
    ]


def bundle(content: bytes) -> Image:
    return signing.bundle_referrer(content, IMAGE)


async def test_by_cosigns_tag_then_by_what_refers_to_it() -> None:
    signature, one, other = signed_by(KEY, KEY, digest=IMAGE.root), bundle(b"1"), bundle(b"2")
    sbom = build_artifact(b"{}", "application/spdx+json", descriptor(IMAGE.media_type, IMAGE.raw))
    source = Given(signature, one, other, sbom, sig=signature, listing=signing.referrers_index(one, sbom))
    source.referrers = [parsed(other).referrer, parsed(one).referrer]
    payload = payload_for(IMAGE.root)
    assert await found(source) == [(payload, True), (payload, True), (b"2", False), (b"1", False)]
    assert sbom.root not in source.asked


async def test_what_is_not_there_is_passed_over() -> None:
    assert await found(Given()) == []
    one, other = bundle(b"1"), bundle(b"2")
    listing = signing.referrers_index(one, other)
    assert await found(Given(other, listing=listing)) == [(b"2", False)]


async def test_neither_too_many_nor_too_large_ones_are_asked_for() -> None:
    many = [(b"%d" % number, b"x") for number in range(200)]
    large = signing.simple_signatures([(b"x" * (PAYLOAD_LIMIT + 1), b"x"), *many])
    source = Given(large, sig=large)
    assert len(await found(source)) == SIGNATURES_LIMIT
    assert len(source.asked) == 2 + SIGNATURES_LIMIT, "the tag, the config, and what was looked at"
    referrers = [bundle(b"%d" % number) for number in range(REFERRERS_LIMIT + 10)]
    source = Given(*referrers, listing=signing.referrers_index(*referrers))
    assert len(await found(source)) == REFERRERS_LIMIT
    huge = bundle(b"x" * (BUNDLE_LIMIT + 1))
    assert await found(Given(huge, listing=signing.referrers_index(huge))) == []
    twice = bundle(b"1")
    source = Given(twice, listing=signing.referrers_index(twice, twice))
    assert len(await found(source)) == 1


async def test_a_digest_too_long_for_cosigns_tag_is_looked_for_among_referrers_alone() -> None:
    source = Given()
    await found(source, Digest.of(IMAGE.raw, "sha512"))
    assert source.asked == [fallback_tag(Digest.of(IMAGE.raw, "sha512"))]


async def test_held_gives_what_the_store_has_and_nothing_that_rotted(tmp_path: Path) -> None:
    signature = signed_by(KEY, digest=IMAGE.root)
    async with await Store.open(tmp_path, threads=0) as store:
        held = Held(store)
        assert await found(held) == []
        record = TagRecord(*PLACE, signature_tag(IMAGE.root), parsed(signature).descriptor, 1.0, "somebody")
        await store.put_tag(record)
        assert await found(held) == []
        await store.put(signature.raw, Digest.parse_untrusted(signature.root))
        assert await found(held) == []
        for digest, data in signature.blobs.items():
            await store.put(data, Digest.parse_untrusted(digest))
        assert await found(held) == [(payload_for(IMAGE.root), True)]
        path = store.blob_path(Digest.parse_untrusted(signature.root))
        path.chmod(0o600)
        path.write_bytes(b"rot")
        assert await found(held) == []
        path.unlink()
        assert await found(held) == []


async def test_the_rest_of_a_signature_comes_along_and_is_not_waited_for(autojump_clock: MockClock) -> None:
    signature = signed_by(KEY, digest=IMAGE.root)
    config = str(parsed(signature).blobs[0].digest)
    source = Given(signature, sig=signature)
    assert len(await found(source)) == 1
    assert config in source.asked

    class Slow(Given):
        async def blob(self, registry: str, repository: str, blob: Descriptor) -> bytes | None:
            if str(blob.digest) == config:
                await trio.sleep_forever()
            return await super().blob(registry, repository, blob)

    assert len(await found(Slow(signature, sig=signature))) == 1
