"""Ages: by the process's own clock; by Unix time only what an earlier run left."""

from pathlib import Path

import trio
from trio.abc import Clock

from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.store.store import Store
from tests.images import build_image

A, B = Digest.of(b"a"), Digest.of(b"b")
IMAGE = build_image([b"layer"])
ROOT = Digest.parse_untrusted(IMAGE.root)


class Unix:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


async def test_a_claim_makes_a_blob_young_whatever_the_clock_says(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    unix = Unix()
    async with await Store.open(tmp_path, 0, unix=unix) as store:
        await store.put(b"a", A)
        await store.put(b"b", B)
        await trio.sleep(100)
        unix.now = 0.0
        store.ages.claim(A)
        assert store.ages.age(A) == 0
        assert store.ages.age(B) > 99
        assert store.ages.claimed_within(50) == {A}
        assert store.ages.age(ROOT) == float("inf")
        store.ages.claim(ROOT)
        assert store.ages.age(ROOT) == float("inf"), "it is not here"


async def test_putting_again_what_is_here_claims_it(autojump_clock: Clock, tmp_path: Path) -> None:
    async with await Store.open(tmp_path, 0) as store:
        await store.put(b"a", A)
        await trio.sleep(100)
        await store.put(b"a", A)
        assert store.ages.age(A) < 1


async def test_a_claim_of_what_was_old_is_a_reason_to_think_again(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with await Store.open(tmp_path, 0) as store:
        await store.put(b"a", A)
        before = store.changes
        store.ages.claim(A)
        assert store.changes == before
        await trio.sleep(100)
        store.ages.claim(A)
        assert store.changes == before + 1


async def test_ages_outlive_a_restart_and_what_lies_in_the_future_is_new(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    unix = Unix()
    async with await Store.open(tmp_path, 0, unix=unix) as store:
        await store.put(b"a", A)
        unix.now += 500
        await store.put(b"b", B)
    unix.now += 100
    async with await Store.open(tmp_path, 0, unix=unix) as store:
        assert round(store.ages.age(A)) == 600
        assert round(store.ages.age(B)) == 100
    unix.now -= 1000
    async with await Store.open(tmp_path, 0, unix=unix) as store:
        assert store.ages.age(A) < 1
        assert store.ages.claimed_within(10) == {A, B}


async def test_what_an_older_version_left_counts_from_now(autojump_clock: Clock, tmp_path: Path) -> None:
    async with await Store.open(tmp_path, 0) as store:
        await store.put(b"a", A)
        await store.threads.run(store._backing.database._do, "DELETE FROM care")
    async with await Store.open(tmp_path, 0) as store:
        assert store.ages.age(A) < 10
        assert store.ages.due_since(A) > 0


async def test_uses_are_of_manifests_and_written_now_and_then(autojump_clock: Clock, tmp_path: Path) -> None:
    unix = Unix()
    writes: list[object] = []
    async with await Store.open(tmp_path, 0, unix=unix) as store:
        for text, data in IMAGE.contents.items():
            await store.put(data, Digest.parse_untrusted(text))
        await store.learn(parse_manifest_untrusted(IMAGE.raw), "reg.test", "pos")
        put_claims = store._backing.database.put_claims

        def counted(*values: dict[Digest, float]) -> None:
            writes.append(values)
            put_claims(*values)

        store._backing.database.put_claims = counted  # type: ignore[method-assign,assignment]
        for _ in range(1000):
            store.ages.use(ROOT)
            store.ages.use(Digest.of(b"layer"))
        assert writes == []
        await store.ages.flush()
        await store.ages.flush()
        assert len(writes) == 1
        unix.now = 5.0  # the clock is set back
        store.ages.use(ROOT)
        assert store.ages.used_at(ROOT) > 1_800_000_000
        assert store.ages.used_at(Digest.of(b"layer")) == 0.0
    async with await Store.open(tmp_path, 0, unix=unix) as store:
        assert store.ages.used_at(ROOT) > 1_800_000_000
        await store.removal.drop(ROOT, lambda: True)
        assert store.ages.used_at(ROOT) == 0.0
    async with await Store.open(tmp_path, 0, unix=unix) as store:
        assert store.ages.used_at(ROOT) == 0.0
