"""What is served, published and passed on under a signature policy: sites in memory, on a fake clock."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise

import pytest
import trio
import trio.testing

from meshsat import evidence, signatures
from meshsat.errors import DeniedError
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from meshsat.reading import RefusedBlob
from meshsat.registry.content import Name
from meshsat.signature_policy import Action, Rule
from tests import signing
from tests.images import OCI_MANIFEST, Image, build_image, random_bytes
from tests.mesh.full_node import POS, FullNode, full_site, hold
from tests.signing import Private, make_key, payload_for, public_pem, sign, signature_tag, signed_by

Clock = trio.testing.MockClock
KEY, OTHER = make_key(), make_key()
IMAGE = build_image([random_bytes(300_000, 1)])
MULTI = build_image([random_bytes(300_000, 2)], ["linux/amd64", "linux/arm64"])
NAME = "up.example/library/pos:42"
POS_KEY = ("up.example", "library/pos")


def asking(
    *keys: Private,
    action: Action = "block",
    pattern: str = "up.example/**",
    threshold: int = 1,
    match: bool = False,
) -> list[Rule]:
    named = [(f"key{number}", public_pem(key)) for number, key in enumerate(keys or (KEY,), 1)]
    return [
        Rule.parse_untrusted(
            "rule 1 of signatures",
            pattern=pattern,
            action=action,
            keys=named,
            threshold=threshold,
            match_identity=match,
        )
    ]


def digest(text: str) -> Digest:
    return Digest.parse_untrusted(text)


def publish(node: FullNode, image: Image, *keys: Private, tag: str = "42", **more: str) -> None:
    """Have the upstream hold an image, signed by these."""
    hold(node.site.upstream, image, tag)
    if keys:
        hold(node.site.upstream, signed_by(*keys, digest=image.root, **more), signature_tag(image.root))


async def served(node: FullNode, reference: str | Digest = "42") -> bytes | None:
    found = await node.fetcher.manifest(POS, reference)
    return None if found is None else found.raw


async def refused(node: FullNode, reason: str, reference: str | Digest = "42") -> None:
    with pytest.raises(DeniedError, match=reason):
        await served(node, reference)
    assert node.fetcher.manifest_at_hand(POS, reference) is None


async def test_a_signed_image_is_served_by_every_node_and_what_proves_it_is_kept(
    autojump_clock: Clock,
) -> None:
    async with full_site("up", "dark", signatures=asking()) as (up, dark):
        publish(up, IMAGE, KEY)
        assert await served(dark) == IMAGE.raw
        assert await served(up) == IMAGE.raw
        signature = up.site.upstream.tags["up.example", "library/pos", signature_tag(IMAGE.root)]
        for node in (up, dark):
            assert node.store.blob_size(Digest.of(signature)) is not None
            assert node.store.tag("up.example", "library/pos", signature_tag(IMAGE.root)) is not None
            verdict = node.verifier.shown("up.example", "library/pos", digest(IMAGE.root))
            assert verdict is not None
            assert (verdict.kind, verdict.by_keys) == ("verified", ("key1",))
            assert node.verifier.trouble() is None
        assert await served(dark, digest(IMAGE.root)) == IMAGE.raw


async def test_an_unsigned_one_is_neither_served_nor_kept_nor_told(autojump_clock: Clock) -> None:
    async with full_site("up", "dark", signatures=asking()) as (up, dark):
        publish(up, IMAGE)
        await refused(
            dark, r"pos:42 \(sha256:.* is refused: it has no signature \(asked for by rule 1 of sig"
        )
        await refused(up, "it has no signature")
        await refused(up, "it has no signature", digest(IMAGE.root))
        await trio.sleep(1)
        with pytest.raises(DeniedError):
            await dark.fetcher.manifest(POS, "42", unsigned=True)
        for node in (up, dark):
            assert node.store.blobs() == {}
            assert node.store.all_tags() == []
        with pytest.raises(DeniedError, match="it has no signature"):
            await dark.pull(NAME)
        assert dark.store.blobs() == {}
        assert not [one for one in up.site.upstream.requests if one.startswith("blob")]


@pytest.mark.parametrize(
    ("evil", "reason"),
    [
        (signed_by(OTHER, digest=IMAGE.root), "signed by no key of the rule"),
        (signed_by(KEY, digest=MULTI.root), "about another manifest"),
        (signing.simple_signatures([(payload_for(IMAGE.root), None)]), "has no signature"),
        (signing.simple_signatures([(payload_for(IMAGE.root), b"junk")]), "signed by no key"),
        (
            signing.simple_signatures([(payload_for(IMAGE.root), sign(KEY, payload_for(MULTI.root)))]),
            "signed by no key",
        ),
        (build_image([b"an image in a signature's place"]), "has no signature"),
        (signing.simple_signatures([(b"x" * 100_000, sign(KEY, b"x" * 100_000))]), "has no signature"),
    ],
    ids=["wrong key", "wrong digest", "stripped", "junk", "of another payload", "an image", "too large"],
)
@pytest.mark.parametrize("node", ["up", "dark"])
async def test_what_is_no_signature_of_it(autojump_clock: Clock, node: str, evil: Image, reason: str) -> None:
    async with full_site("up", "dark", signatures=asking()) as nodes:
        publish(nodes[0], IMAGE)
        hold(nodes[0].site.upstream, evil, signature_tag(IMAGE.root))
        await refused(nodes[node == "dark"], reason)


async def test_no_more_signatures_are_looked_at_than_may_be(autojump_clock: Clock) -> None:
    payload = payload_for(IMAGE.root)
    junk = [(b"%d" % n, b"junk") for n in range(evidence.SIGNATURES_LIMIT)]
    async with full_site("up", signatures=asking()) as (up,):
        publish(up, IMAGE)
        good = (payload, sign(KEY, payload))
        evil = signing.simple_signatures([*junk, good])
        hold(up.site.upstream, evil, signature_tag(IMAGE.root))
        await refused(up, "and 63 more are no better")
        enough = signing.simple_signatures([*junk[1:], good])
        hold(up.site.upstream, enough, signature_tag(IMAGE.root))
        await trio.sleep(signatures.BAD_AGE + 1)
        assert await served(up) == IMAGE.raw


async def test_as_many_different_keys_as_the_rule_asks_for(autojump_clock: Clock) -> None:
    third = make_key()
    async with full_site("up", signatures=asking(KEY, OTHER, third, threshold=2)) as (up,):
        publish(up, IMAGE, KEY, KEY, KEY)
        await refused(up, "1 of the 2 keys that must have signed it did")
        publish(up, IMAGE, KEY, third)
        await trio.sleep(signatures.BAD_AGE + 1)
        assert await served(up) == IMAGE.raw


async def test_a_key_of_another_rule_is_none_here(autojump_clock: Clock) -> None:
    rules = [
        *asking(OTHER, pattern="up.example/other/**"),
        *asking(KEY, pattern="up.example/library/**"),
    ]
    async with full_site("up", signatures=rules) as (up,):
        publish(up, IMAGE, OTHER)
        await refused(up, "signed by no key of the rule")


async def test_the_signers_name_for_it_counts_where_the_rule_says_so(autojump_clock: Clock) -> None:
    async with full_site("up", signatures=asking(match=True)) as (up,):
        publish(up, IMAGE, KEY, name="up.example/library/other")
        await refused(up, "it was made for up.example/library/other")
        publish(up, IMAGE, KEY, name="not a name")
        await trio.sleep(signatures.BAD_AGE + 1)
        await refused(up, "not valid: reference 'not a name'")
        publish(up, IMAGE, KEY, name="up.example/library/pos:41")
        await trio.sleep(signatures.BAD_AGE + 1)
        assert await served(up) == IMAGE.raw
        up.signature_policy.replace(asking())
        assert await served(up) == IMAGE.raw


async def test_signatures_that_are_images_lead_nowhere(autojump_clock: Clock) -> None:
    """Each with a signature that is an image again."""
    chain = [IMAGE, *(build_image([b"%d" % number]) for number in range(20))]
    async with full_site("up", signatures=asking()) as (up,):
        publish(up, IMAGE)
        for image, signature in pairwise(chain):
            hold(up.site.upstream, signature, signature_tag(image.root))
        hold(
            up.site.upstream,
            signing.referrers_index(*chain[1:], bundled(OTHER)),
            signing.referrers_tag(IMAGE.root),
        )
        listing = parse_manifest_untrusted(
            up.site.upstream.tags[POS_KEY[0], POS_KEY[1], signing.referrers_tag(IMAGE.root)]
        )
        fakes = [replace(one, artifact_type=signing.ARTIFACT) for one in listing.manifests]
        up.site.upstream.referrers = {digest(IMAGE.root): fakes}
        await refused(up, "not valid: it is signed by no key")
        for image in chain:
            assert up.store.blob_size(digest(image.root)) is None, "nothing that is an image was kept"
        assert len(up.site.upstream.requests) < 40


# --- indexes and their images ---


async def test_an_indexs_signature_covers_what_it_lists(autojump_clock: Clock) -> None:
    children = [one for one in MULTI.manifests if one != MULTI.root]
    async with full_site("up", "dark", signatures=asking()) as (up, dark):
        publish(up, MULTI, KEY)
        assert await served(dark) == MULTI.raw
        for child in children:
            assert await served(dark, digest(child)) == MULTI.manifests[child]
        verdict = dark.verifier.shown("up.example", "library/pos", digest(children[0]))
        assert verdict is not None
        assert verdict.reason.startswith(f"listed by {MULTI.root}, which is signed")
        again = signatures.Verifier(dark.store, dark.signature_policy)  # as after a restart
        manifest = parse_manifest_untrusted(MULTI.manifests[children[0]])
        found = await again.check("up.example", "library/pos", digest(children[0]), manifest)
        assert found.reason.startswith(f"as part of {MULTI.root}, signed by key1")


async def test_a_child_of_an_unsigned_index_may_be_signed_itself(autojump_clock: Clock) -> None:
    one, other = (digest for digest in MULTI.manifests if digest != MULTI.root)
    async with full_site("up", signatures=asking()) as (up,):
        publish(up, MULTI)
        hold(up.site.upstream, signed_by(KEY, digest=one), signature_tag(one))
        await refused(up, "has no signature")
        assert await served(up, digest(one)) == MULTI.manifests[one]
        await refused(up, "has no signature", digest(other))


async def test_a_child_has_the_rule_of_its_indexs_tag(autojump_clock: Clock) -> None:
    child = next(iter(MULTI.manifests))
    accept = Rule.parse_untrusted("rule 0", pattern="up.example/**:dev-*", action="accept")
    async with full_site("up", signatures=[accept, *asking()]) as (up,):
        publish(up, MULTI, tag="dev-1")
        assert await served(up, "dev-1") == MULTI.raw
        assert await served(up, digest(MULTI.root)) == MULTI.raw
        assert await served(up, digest(child)) == MULTI.manifests[child]
        publish(up, IMAGE)
        await refused(up, "has no signature")
        await refused(up, "has no signature", digest(IMAGE.root))


async def test_a_digest_that_is_wanted_of_upstream_is_judged_by_who_wants_it(autojump_clock: Clock) -> None:
    """The uplink does not know the tag that the desired state has it under."""
    accept = Rule.parse_untrusted("rule 0", pattern="up.example/**:dev-*", action="accept")
    async with full_site("up", "dark", signatures=[accept, *asking()]) as (up, dark):
        publish(up, IMAGE, tag="dev-1")
        await dark.pull(f"up.example/library/pos:dev-1@{IMAGE.root}")
        other = build_image([b"other"])
        publish(up, other, tag="dev-2")
        await refused(dark, "no signature", digest(other.root))


async def test_what_lists_referrers_lends_them_no_tag(autojump_clock: Clock) -> None:
    block = asking(pattern="up.example/**:prod-*")
    async with full_site("up", signatures=block) as (up,):
        listing = signing.referrers_index(IMAGE)
        hold(up.site.upstream, listing, signing.referrers_tag(MULTI.root))
        hold(up.site.upstream, IMAGE, "unused")
        del up.site.upstream.tags["up.example", "library/pos", "unused"]
        assert await served(up, signing.referrers_tag(MULTI.root)) == listing.raw
        await refused(up, "no signature", digest(IMAGE.root))


# --- referrers ---


def bundled(*keys: Private, image: Image = IMAGE) -> Image:
    statement = signing.statement_for(image.root)
    return signing.bundle_referrer(signing.bundle_of(statement, *keys), image)


@pytest.mark.parametrize("api", [True, False])
@pytest.mark.parametrize("form", ["bundle", "simple"])
async def test_a_signature_that_refers_to_it(autojump_clock: Clock, api: bool, form: str) -> None:
    referrer = bundled(KEY)
    if form == "simple":
        payload = payload_for(IMAGE.root)
        subject = {"mediaType": OCI_MANIFEST, "digest": IMAGE.root, "size": len(IMAGE.raw)}
        referrer = signing.simple_signatures([(payload, sign(KEY, payload))], subject)
    async with full_site("up", "dark", signatures=asking()) as (up, dark):
        publish(up, IMAGE)
        up.site.upstream.referrers = {} if api else None
        await refused(dark, "no signature")
        listing = signing.referrers_index(bundled(OTHER), referrer)
        hold(up.site.upstream, listing, "unused" if api else signing.referrers_tag(IMAGE.root))
        if api:
            listed = parse_manifest_untrusted(listing.raw).manifests
            up.site.upstream.referrers = {digest(IMAGE.root): list(listed)}
        await trio.sleep(signatures.BAD_AGE + 1)
        assert await served(dark) == IMAGE.raw
        found = await dark.fetcher.referrers(POS, digest(IMAGE.root))
        assert digest(referrer.root) in {one.digest for one in found}


async def test_no_more_referrers_are_looked_into_than_may_be(autojump_clock: Clock) -> None:
    async with full_site("up", signatures=asking()) as (up,):
        publish(up, IMAGE)
        junk = [signing.bundle_referrer(b"%d" % number, IMAGE) for number in range(evidence.REFERRERS_LIMIT)]
        hold(
            up.site.upstream,
            signing.referrers_index(*junk, bundled(KEY)),
            signing.referrers_tag(IMAGE.root),
        )
        await refused(up, "and 31 more are no better")


# --- without an uplink ---


async def test_a_dark_site_proves_what_it_pulled(autojump_clock: Clock) -> None:
    async with full_site("up", "dark", "late", signatures=asking()) as (up, dark, late):
        publish(up, MULTI, KEY)
        await up.pull(NAME)
        up.uplink.down = True
        await trio.sleep(120)
        for node in (dark, late):
            assert await served(node) == MULTI.raw
            await node.pull(NAME)
        for node in (up, dark, late):
            assert {image.tag for image in node.store.images()} >= {"42"}


async def test_each_node_checks_for_itself(autojump_clock: Clock) -> None:
    async with full_site("up", "dark", signatures=[]) as (up, dark):
        dark.signature_policy.replace(asking())
        publish(up, IMAGE)
        await up.pull(NAME)
        await refused(dark, "has no signature")
        with pytest.raises(DeniedError, match="has no signature"):
            await dark.pull(NAME)
        assert dark.store.images() == []
        layer = max(IMAGE.blobs, key=lambda one: len(IMAGE.blobs[one]))
        reader = await dark.fetcher.open_blob(POS, digest(layer))
        assert reader is not None
        assert (reader.size, reader.path) == (len(IMAGE.blobs[layer]), None)
        with pytest.raises(DeniedError, match=r"not given: it is of up.example/library/pos@.*no signature"):
            async with reader:
                pass
        with pytest.raises(DeniedError, match="not given"):
            await anext(reader.stream(0, 1))
        with pytest.raises(DeniedError):
            await dark.fetcher.manifest(POS, "42", unsigned=True)
        assert dark.verifier.trouble() is not None
        dark.signature_policy.replace([*asking(pattern="other.example/**")])
        assert dark.verifier.trouble() is None
        assert not isinstance(await dark.fetcher.open_blob(POS, digest(layer)), RefusedBlob)
        assert await served(dark) == IMAGE.raw


async def test_new_rules_count_for_what_is_held_and_at_hand(autojump_clock: Clock) -> None:
    async with full_site("up") as (up,):
        publish(up, IMAGE)
        await up.pull(NAME)
        at_hand = up.fetcher.manifest_at_hand
        for reference in ("42", digest(IMAGE.root)):
            assert await served(up, reference) == IMAGE.raw
            assert at_hand(POS, reference) is not None
        up.signature_policy.replace(asking())
        for reference in ("42", digest(IMAGE.root)):
            assert at_hand(POS, reference) is None
            await refused(up, "no signature", reference)
        publish(up, IMAGE, KEY)
        await trio.sleep(signatures.BAD_AGE)
        for reference in ("42", digest(IMAGE.root)):
            assert await served(up, reference) == IMAGE.raw
            assert at_hand(POS, reference) is not None
        up.signature_policy.replace(asking(OTHER))
        for reference in ("42", digest(IMAGE.root)):
            assert at_hand(POS, reference) is None
            await refused(up, "signed by no key", reference)


async def test_a_layer_of_a_good_image_is_given_whatever_else_has_it(autojump_clock: Clock) -> None:
    layer = random_bytes(100_000, 5)
    good, bad, unasked = (build_image([layer, name]) for name in (b"good", b"bad", b"unasked"))
    accept = Rule.parse_untrusted("rule 0", pattern="up.example/**:dev-*", action="accept")

    async def given(node: FullNode) -> bool:
        reader = await node.fetcher.open_blob(POS, Digest.of(layer))
        return not isinstance(reader, RefusedBlob)

    for other in (good, unasked):
        for first in (other, bad):
            async with full_site("up", "dark") as (up, dark):
                publish(up, good, KEY, tag="good")
                publish(up, unasked, tag="dev-1")
                publish(up, bad, tag="bad")
                for tag in ("good", "dev-1", "bad"):
                    await up.pull(f"up.example/library/pos:{tag}")
                dark.signature_policy.replace([accept, *asking()])
                for image in (first, bad if first is other else other):
                    if image is bad:
                        await refused(dark, "no signature", "bad")
                        assert await given(dark) == (first is other)
                    else:
                        assert await served(dark, "good" if other is good else "dev-1") == other.raw
                assert await given(dark)


async def test_what_was_good_goes_on_when_its_tag_moves_to_what_is_not(autojump_clock: Clock) -> None:
    async with full_site("up", "dark", signatures=asking(), tag_ttl=60.0) as (up, dark):
        publish(up, IMAGE, KEY)
        await dark.pull(NAME)
        publish(up, build_image([b"unsigned"]))
        await trio.sleep(61)
        requests = len(up.site.upstream.requests)
        for _ in range(5):
            found = await dark.fetcher.manifest(POS, "42")
            assert found is not None
            assert (found.raw, found.fresh) == (IMAGE.raw, False)
        assert len(up.site.upstream.requests) - requests < 6, "its refusal is believed for a moment"


async def test_a_bad_verdict_is_kept_for_a_moment_and_a_good_one_for_good(autojump_clock: Clock) -> None:
    async with full_site("up", signatures=asking()) as (up,):
        publish(up, IMAGE)
        await refused(up, "no signature")
        publish(up, IMAGE, KEY)
        await refused(up, "no signature")
        await trio.sleep(signatures.BAD_AGE)
        assert await served(up) == IMAGE.raw
        await up.pull(NAME)
        del up.site.upstream.tags["up.example", "library/pos", signature_tag(IMAGE.root)]
        up.uplink.down = True
        await trio.sleep(3000)
        assert await served(up, digest(IMAGE.root)) == IMAGE.raw
        assert up.fetcher.manifest_at_hand(POS, digest(IMAGE.root)) is not None


async def test_an_upstream_that_does_not_give_signatures_is_waited_for_no_longer_than_may_be(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with full_site("up", "dark", signatures=asking(), resolve_timeout=30.0) as (up, _):
        publish(up, IMAGE)
        ask = up.uplink.manifest

        async def slow(
            registry: str, repository: str, reference: str, known: Manifest | None = None
        ) -> Manifest:
            if reference.endswith(".sig"):
                await trio.sleep_forever()
            return await ask(registry, repository, reference, known)

        monkeypatch.setattr(up.uplink, "manifest", slow)
        began = trio.current_time()
        await refused(up, "could not be had in time")
        assert trio.current_time() - began < 10


# --- warnings ---


async def test_a_warning_serves_and_tells(autojump_clock: Clock) -> None:
    async with full_site("up", "dark", signatures=asking(action="warn")) as (up, dark):
        publish(up, IMAGE)
        assert await served(dark) == IMAGE.raw
        await dark.pull(NAME)
        trouble = dark.verifier.trouble()
        assert trouble is not None
        assert f"served in spite of that: up.example/library/pos@{IMAGE.root} (it has no signature" in trouble
        verdict = dark.verifier.shown("up.example", "library/pos", digest(IMAGE.root))
        assert verdict is not None
        assert verdict.kind == "warned"
        publish(up, IMAGE, KEY)
        await trio.sleep(signatures.BAD_AGE + 60)
        assert await served(dark) == IMAGE.raw
        assert dark.verifier.trouble() is None


async def test_trouble_names_a_few_of_many(autojump_clock: Clock) -> None:
    async with full_site("up", signatures=asking()) as (up,):
        for number in range(5):
            publish(up, build_image([b"%d" % number]), tag=f"v{number}")
            await refused(up, "no signature", f"v{number}")
        trouble = up.verifier.trouble()
        assert trouble is not None
        assert trouble.count("up.example/library/pos@") == signatures.SHOWN
        assert trouble.endswith("and 2 more")


# --- site content ---


async def push(node: FullNode, image: Image, tag: str, repository: str = "team/app") -> None:
    name = Name(None, repository)
    for blob, data in image.blobs.items():
        await node.store.put(data, digest(blob))
        node.node.driver.stored(digest(blob), len(data))
        await node.store.repositories.add(repository, [digest(blob)])
    for manifest, raw in image.manifests.items():
        tags: Sequence[str] = [tag] if manifest == image.root else []
        parsed = parse_manifest_untrusted(raw, image.media_types[manifest])
        await node.site_content.put_manifest(name, parsed, tags, sparse=False)


async def test_site_content_is_signed_at_the_site(autojump_clock: Clock) -> None:
    name = Name(None, "team/app")
    async with full_site("a", "b", signatures=asking(pattern="site.internal/**")) as (a, b):
        await push(a, IMAGE, "1")
        await trio.sleep(1)
        for node in (a, b):
            with pytest.raises(DeniedError, match="has no signature"):
                await node.fetcher.manifest(name, "1")
        assert a.store.images() == []
        # Who pushes another image of the same layers asks whether they are there.
        reader = await a.fetcher.open_blob(name, digest(next(iter(IMAGE.blobs))))
        assert reader is not None
        to_sign = await b.fetcher.manifest(name, "1", unsigned=True)
        assert to_sign is not None
        assert to_sign.raw == IMAGE.raw
        await push(a, signed_by(KEY, digest=IMAGE.root), signature_tag(IMAGE.root))
        await trio.sleep(signatures.BAD_AGE + 1)
        for node in (a, b):
            found = await node.fetcher.manifest(name, "1")
            assert found is not None
            assert found.raw == IMAGE.raw
        await trio.sleep(1)
        assert "site.internal/team/app:1" in {image.name for image in a.store.images()}


async def test_what_refers_to_site_content_signs_it_too(autojump_clock: Clock) -> None:
    async with full_site("a", "b", signatures=asking(pattern="site.internal/**")) as (a, b):
        await push(a, IMAGE, "1")
        await push(a, bundled(KEY), "signature")
        await trio.sleep(1)
        for node in (a, b):
            found = await node.fetcher.manifest(Name(None, "team/app"), "1")
            assert found is not None


async def test_a_pull_that_waits_for_signatures_says_so_and_may_be_left(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with full_site("up", "dark") as (up, dark):
        dark.signature_policy.replace(asking())
        publish(up, IMAGE, KEY)
        ask = up.uplink.manifest

        async def slow(
            registry: str, repository: str, reference: str, known: Manifest | None = None
        ) -> Manifest:
            await trio.sleep(6 if reference.endswith(".sig") else 0)
            return await ask(registry, repository, reference, known)

        monkeypatch.setattr(up.uplink, "manifest", slow)
        told = []
        with trio.move_on_after(5):
            async with aclosing(dark.fetcher.pull(NAME)) as events:
                async for event in events:
                    assert event.event == "progress"
                    told.append(trio.current_time())
        assert len(told) >= 5
        assert all(later - earlier <= 1.1 for earlier, later in pairwise(told))
        await trio.testing.wait_all_tasks_blocked()
        assert dark.node.driver.questions == {}
        assert (
            dark.store.blob_size(max(map(digest, IMAGE.blobs), key=lambda one: len(IMAGE.blobs[str(one)])))
            is None
        )
        await dark.pull(NAME)
