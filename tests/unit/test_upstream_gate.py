"""What the mesh asks of upstream: answers are sealed and dated, and their manifests are here afterwards."""

from pathlib import Path
from typing import cast

import pytest
import trio

from meshsat.config import PullThroughRule, PullThroughSection
from meshsat.errors import DeniedError, NotFoundError, StorageError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from meshsat.oci.referrers import fallback_tag, listed_referrers_untrusted
from meshsat.protocol.gossip import open_record_untrusted
from meshsat.pull_through import PullThrough
from meshsat.records import row_of
from meshsat.signature_policy import SignaturePolicy
from meshsat.signatures import Verifier
from meshsat.store.store import Store
from meshsat.trust.keys import NodeKey
from meshsat.uplink.client import Uplink
from meshsat.upstream_gate import UpstreamGate
from tests.images import build_image

NOW = 1_800_000_000.0
IMAGE = build_image([b"layer"])
ROOT = Digest.parse_untrusted(IMAGE.root)
ASKED = ("up.example", "library/pos")


class OneImage:
    """`uplink.client.Uplink`, as far as the gate goes."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.ranges: list[tuple[object, ...]] = []
        self.known: list[Digest | None] = []
        self.listed: list[Descriptor] | None = None
        self.referrers_asked = 0

    async def referrers(self, registry: str, repository: str, subject: Digest) -> list[Descriptor]:
        await trio.lowlevel.checkpoint()
        self.referrers_asked += 1
        if self.listed is None:
            raise NotFoundError("no such API")
        return self.listed

    async def manifest(
        self, registry: str, repository: str, reference: str, known: Manifest | None = None
    ) -> Manifest:
        await trio.lowlevel.checkpoint()
        self.known.append(known.digest if known else None)
        if self.fault is not None:
            raise self.fault
        return parse_manifest_untrusted(IMAGE.raw)

    def blob(self, *asked: object) -> str:
        self.ranges.append(asked)
        return "a stream"


def make(
    store: Store, policy: PullThrough | None = None, signatures: SignaturePolicy | None = None
) -> tuple[UpstreamGate, OneImage, NodeKey]:
    uplink, key = OneImage(), NodeKey.generate()
    policy = policy or PullThrough(PullThroughSection(), 60.0)
    verifier = Verifier(store, signatures or SignaturePolicy())
    return UpstreamGate(cast("Uplink", uplink), store, key, lambda: NOW, policy, verifier), uplink, key


@pytest.mark.parametrize("reference", ["42", IMAGE.root])
async def test_an_answer_is_sealed_and_its_manifest_is_here(tmp_path: Path, reference: str) -> None:
    async with await Store.open(tmp_path, threads=0) as store:
        gate, _, key = make(store)
        stored: list[tuple[Digest, int]] = []
        gate.on_stored = lambda *what: stored.append(what)
        record = await gate.resolve(*ASKED, reference)
        assert open_record_untrusted(record.sealed, NOW) == record
        assert record.key == (*ASKED, reference)
        assert (record.digest, record.size, record.resolved_at) == (ROOT, len(IMAGE.raw), NOW)
        assert record.author == key.peer_id
        assert await store.read(ROOT, 0, 10_000) == IMAGE.raw
        assert stored == [(ROOT, len(IMAGE.raw))]
        for blob, data in IMAGE.blobs.items():
            facts = store.facts(Digest.parse_untrusted(blob))
            assert facts is not None
            assert (facts.size, facts.sources) == (len(data), (ASKED,))


async def test_what_the_upstream_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    async with await Store.open(tmp_path, threads=0) as store:
        gate, uplink, _ = make(store)
        uplink.fault = NotFoundError("no such tag")
        gate.on_stored = lambda *_: pytest.fail("nothing was stored")
        with pytest.raises(NotFoundError):
            await gate.resolve(*ASKED, "43")
        with pytest.raises(NotFoundError):
            await gate.manifest(*ASKED, "43")
        assert store.blobs() == {}


async def test_a_disk_that_does_not_take_the_manifest_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await Store.open(tmp_path, threads=0) as store:
        gate, _, _ = make(store)

        async def full(*_: object) -> None:
            raise StorageError("no space left")

        monkeypatch.setattr(store, "put", full)
        gate.on_stored = lambda *_: pytest.fail("nothing was stored")
        with pytest.raises(StorageError, match="no space"):
            await gate.resolve(*ASKED, "42")


async def test_manifests_and_blobs_pass_through(tmp_path: Path) -> None:
    async with await Store.open(tmp_path, threads=0) as store:
        gate, uplink, _ = make(store)
        assert (await gate.manifest(*ASKED, IMAGE.root)).raw == IMAGE.raw
        assert store.blobs() == {}
        assert cast("object", gate.blob(*ASKED, ROOT, 1, 2, 3)) == "a stream"
        assert uplink.ranges == [(*ASKED, ROOT, 1, 2, 3)]


async def test_what_the_policy_denies_is_asked_of_no_upstream(tmp_path: Path) -> None:
    rule = PullThroughRule(pattern="up.example/**", allow=False)
    policy = PullThrough(PullThroughSection(rules=(rule,)), 60.0)
    async with await Store.open(tmp_path, threads=0) as store:
        gate, uplink, _ = make(store, policy)
        uplink.fault = AssertionError("it was asked")
        for ask in (gate.resolve, gate.manifest):
            for reference in ("42", IMAGE.root):
                with pytest.raises(DeniedError, match=r"rule 1 .*up.example/\*\*"):
                    await ask(*ASKED, reference)
        with pytest.raises(DeniedError, match="rule 1"):
            gate.blob(*ASKED, ROOT, 1, 2, 3)
        assert uplink.ranges == []
        uplink.fault = None
        with policy.lifted(*ASKED):
            assert (await gate.resolve(*ASKED, "42")).digest == ROOT


async def test_what_a_tag_meant_is_asked_for_only_if_it_changed(tmp_path: Path) -> None:
    async with await Store.open(tmp_path, threads=0) as store:
        gate, uplink, _ = make(store)
        for reference in ("42", IMAGE.root):
            await store.put_tag(row_of(await gate.resolve(*ASKED, reference)))
        assert uplink.known == [None, None]
        await gate.resolve(*ASKED, "42")
        await gate.resolve(*ASKED, "43")
        await gate.resolve(*ASKED, IMAGE.root)
        assert uplink.known == [None, None, ROOT, None, None]


@pytest.mark.parametrize("damage", [b"", IMAGE.raw[:-1], IMAGE.raw.replace(b"\n  ", b"\n\t ", 1)])
async def test_a_manifest_that_rotted_on_disk_is_asked_for_anew(tmp_path: Path, damage: bytes) -> None:
    async with await Store.open(tmp_path, threads=0) as store:
        gate, uplink, _ = make(store)
        await store.put_tag(row_of(await gate.resolve(*ASKED, "42")))
        path = store.blob_path(ROOT)
        path.chmod(0o600)
        path.write_bytes(damage)
        await gate.resolve(*ASKED, "42")
        assert uplink.known == [None, None]


async def test_what_the_registrys_api_lists_is_kept_under_the_fallback_tag(tmp_path: Path) -> None:
    tag = fallback_tag(ROOT)
    signature = Descriptor(IMAGE.media_type, Digest.of(b"sig"), 3, artifact_type="a/sig")
    async with await Store.open(tmp_path, threads=0) as store:
        gate, uplink, _ = make(store)
        uplink.listed = [signature]
        record = await gate.resolve(*ASKED, tag)
        assert record.key == (*ASKED, tag)
        assert listed_referrers_untrusted(await store.read(record.digest, 0, 10_000)) == [signature]
        assert (await gate.resolve(*ASKED, tag)).digest == record.digest
        assert uplink.known == [], "the tag itself is not asked for"
        uplink.listed = []
        with pytest.raises(NotFoundError, match="nothing refers"):
            await gate.resolve(*ASKED, tag)


async def test_without_that_api_the_tag_is_a_tag_and_the_api_is_left_alone_for_a_while(
    tmp_path: Path,
) -> None:
    now = [NOW]
    async with await Store.open(tmp_path, threads=0) as store:
        gate, uplink, _ = make(store)
        gate._unix = lambda: now[0]
        for _ in range(3):
            assert (await gate.resolve(*ASKED, fallback_tag(ROOT))).digest == ROOT
        assert uplink.referrers_asked == 1
        now[0] += 601
        await gate.resolve(*ASKED, fallback_tag(ROOT))
        assert uplink.referrers_asked == 2
        await gate.resolve(*ASKED, f"{fallback_tag(ROOT)}.sig")
        await gate.resolve(*ASKED, "42")
        assert uplink.referrers_asked == 2


async def test_referrers_that_the_policy_denies_are_asked_of_no_upstream(tmp_path: Path) -> None:
    rule = PullThroughRule(pattern="up.example/**", allow=False)
    policy = PullThrough(PullThroughSection(rules=(rule,)), 60.0)
    async with await Store.open(tmp_path, threads=0) as store:
        gate, uplink, _ = make(store, policy)
        with pytest.raises(DeniedError):
            await gate.resolve(*ASKED, fallback_tag(ROOT))
        assert uplink.referrers_asked == 0


async def test_signatures_are_let_through_where_any_tag_of_their_repository_is(tmp_path: Path) -> None:
    rule = PullThroughRule(pattern="up.example/library/pos:1.*")
    policy = PullThrough(PullThroughSection(rules=(rule,), allow=False), 60.0)
    async with await Store.open(tmp_path, threads=0) as store:
        gate, uplink, _ = make(store, policy)
        for tag in ("1.0", f"{fallback_tag(ROOT)}.sig", fallback_tag(ROOT)):
            assert (await gate.resolve(*ASKED, tag)).digest == ROOT
        with pytest.raises(DeniedError):
            await gate.resolve(*ASKED, "2.0")
        uplink.listed = []
        with pytest.raises(DeniedError):
            await gate.resolve("up.example", "library/other", fallback_tag(ROOT))
