"""What becomes of a desired state on a node: judged, its body fetched, put in force, kept, told."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from meshsat.errors import InvalidInputError, NotFoundError, StorageFullError
from meshsat.fleet import states as module
from meshsat.fleet.keeping import Keeping
from meshsat.fleet.state_file import StateFile
from meshsat.oci.digest import Digest
from meshsat.protocol.events import ItemDropped, ItemJudged, Judgement
from meshsat.trust.keys import PeerId
from meshsat.trust.passes import DAY
from meshsat.trust.state_documents import Refused, StateError
from tests.authors import GRACE, NOW, Signers, key_of, role, sealed
from tests.states import Holder, body, state_file

S = Signers()
PEER = key_of("peer").peer_id
OTHER = key_of("other").peer_id


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


def judged(holder: Holder, raw: bytes, peer: PeerId = PEER) -> tuple[Judgement, str]:
    verdict = holder.states.judge(raw, peer)
    assert verdict.source == peer
    return verdict.judgement, verdict.name


def told(holder: Holder) -> list[str]:
    return [
        event.name
        for event in holder.fed
        if isinstance(event, ItemJudged) and event.judgement is Judgement.NEWS
    ]


async def test_offered_whole_it_is_in_force_and_travels_on(tmp_path: Path, nursery: trio.Nursery) -> None:
    holder = Holder(tmp_path / "fleet")
    nursery.start_soon(holder.states.run)
    assert await holder.states.offer(state_file(S, 3), "a test") == 3
    await settle()
    assert holder.in_force == 3
    assert [one.version for one in holder.accepted] == [3]
    assert [image.reference for image in holder.accepted[0].state.images] == ["r.example/a:3"]
    assert list(dict.fromkeys(told(holder))) == ["root/1", "state"]
    assert holder.bodies.asked == 0
    assert holder.bodies.kept == holder.accepted[0].digest
    status = holder.states.status()
    assert (status.revision, status.source, status.pending, status.root) == (3, "a test", None, 1)
    assert holder.states.problems() == []


async def test_by_gossip_its_body_is_fetched(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    holder = Holder(tmp_path / "fleet")
    nursery.start_soon(holder.states.run)
    file = state_file(S, 3)
    assert file.head is not None
    assert file.body is not None
    assert judged(holder, S.first()) == (Judgement.NEWS, "root/1")
    assert judged(holder, file.head) == (Judgement.NEWS, "state")
    await trio.sleep(20)
    assert holder.in_force is None
    assert 2 < holder.bodies.asked < 10
    assert holder.states.status().pending == 3
    assert "no peer has it" in str(holder.states.status().pending_problem)
    assert any("revision 3" in problem for problem in holder.states.problems())
    holder.bodies.there[Digest.of(file.body)] = file.body
    await trio.sleep(module.RETRY_LIMIT * 2)
    assert holder.in_force == 3
    assert judged(holder, file.head) == (Judgement.KNOWN, "state")


async def test_a_body_that_is_not_the_heads_is_asked_for_again(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    holder = Holder(tmp_path / "fleet")
    nursery.start_soon(holder.states.run)
    file = state_file(S, 3)
    await holder.states.offer(StateFile(file.roots, file.head), "a test")
    assert file.body is not None
    holder.bodies.there[Digest.of(file.body)] = b'{"images":[]}'
    await trio.sleep(10)
    assert holder.in_force is None
    holder.bodies.there[Digest.of(file.body)] = file.body
    await trio.sleep(module.RETRY_LIMIT * 2)
    assert holder.in_force == 3


async def test_a_newer_one_is_not_held_up_by_one_whose_body_nobody_has(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    holder = Holder(tmp_path / "fleet")
    nursery.start_soon(holder.states.run)
    lost = state_file(S, 3)
    await holder.states.offer(StateFile(lost.roots, lost.head), "a test")
    await settle()
    await holder.states.offer(state_file(S, 4), "a test")
    await settle()
    assert holder.in_force == 4


async def test_a_state_that_is_signed_and_can_not_be_read_keeps_the_old_one(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    holder = Holder(tmp_path / "fleet")
    nursery.start_soon(holder.states.run)
    await holder.states.offer(state_file(S, 1), "a test")
    await settle()
    raw = b'{"word of the future": 1}'
    holder.bodies.there[Digest.of(raw)] = raw
    assert judged(holder, S.head(2, body=raw))[0] is Judgement.NEWS
    await settle()
    assert holder.in_force == 1
    assert "update meshsat" in str(holder.states.status().pending_problem)
    asked = holder.bodies.asked
    await holder.states.offer(StateFile((S.first(),)), "a test")
    await settle()
    assert holder.bodies.asked == asked
    await holder.states.offer(state_file(S, 3), "a test")
    await settle()
    assert holder.in_force == 3


async def test_what_can_not_be_read_or_is_of_another_head_is_not_taken_from_a_file(tmp_path: Path) -> None:
    holder = Holder(tmp_path / "fleet")
    good = state_file(S)
    for file in (
        StateFile(good.roots, good.head, b'{"images":[]}'),
        StateFile(good.roots, S.head(1, body=b"{"), b"{"),
        StateFile(good.roots, None, good.body),
        StateFile((good.head or b"",), None, good.body),
    ):
        with pytest.raises(InvalidInputError):
            await holder.states.offer(file, "a test")
    assert holder.fed == []


# --- what is refused


def forged(version: int = 9) -> bytes:
    return S.head(version, by=("x", "y"))


async def test_refused_in_a_file_it_says_why_and_is_told_once(tmp_path: Path) -> None:
    holder = Holder(tmp_path / "fleet")
    await holder.states.offer(state_file(S, 5), "a test")
    for _ in range(3):
        with pytest.raises(StateError) as fault:
            await holder.states.offer(state_file(S, 4), "file /x")
        assert fault.value.reason is Refused.ROLLBACK
        with pytest.raises(StateError):
            await holder.states.offer(StateFile((S.first(),), forged()), "file /x")
    status = holder.states.status()
    assert status.refused == 2
    assert [(one.source, one.reason) for one in status.refusals] == [
        ("file /x", "older than what is known"),
        ("file /x", "not signed by a key that may"),
    ]


async def test_an_older_one_that_was_accepted_once_is_refused_in_a_file_too(tmp_path: Path) -> None:
    holder = Holder(tmp_path / "fleet")
    await holder.states.offer(state_file(S, 4), "a test")
    await holder.states.offer(state_file(S, 5), "a test")
    with pytest.raises(StateError, match="older than revision 5"):
        await holder.states.offer(state_file(S, 4), "a test")


JUDGED: list[tuple[bytes, Judgement]] = [
    (forged(), Judgement.WRONG),
    (S.head(9, by=("s1",)), Judgement.WRONG),
    (Signers(fleet="other").head(9), Judgement.WRONG),
    (b"noise", Judgement.WRONG),
    (bytes(9000), Judgement.WRONG),
    (sealed(S.root_of(2), "x"), Judgement.WRONG),
    (S.head(9, root=2), Judgement.LATER),
    (sealed(S.root_of(3), "r1", "r2"), Judgement.LATER),
    (S.head(9, issued=NOW - int(200 * DAY), expires=NOW - int(GRACE) - 1), Judgement.LATER),
    (
        sealed(S.root_of(1), "r1").replace(b"root.v1", b"root.v2"),
        Judgement.LATER,
    ),
    (S.head(4), Judgement.OUTDATED),
    (S.head(5, body=b"{}"), Judgement.OUTDATED),
    (S.head(5), Judgement.KNOWN),
]


@pytest.mark.parametrize(("raw", "judgement"), JUDGED)
async def test_a_peer_is_blamed_for_what_it_could_have_known_only(
    tmp_path: Path, raw: bytes, judgement: Judgement
) -> None:
    holder = Holder(tmp_path / "fleet")
    for one in (S.first(), S.head(5)):
        holder.states.judge(one, OTHER)
    assert holder.states.judge(raw, PEER).judgement is judgement


async def test_two_of_one_version_are_told_loudly_until_the_next(tmp_path: Path) -> None:
    holder = Holder(tmp_path / "fleet")
    await holder.states.offer(state_file(S, 5), "a test")
    holder.states.judge(S.head(5, body=b"{}"), PEER)
    assert any("two different documents" in problem for problem in holder.states.problems())
    await holder.states.offer(state_file(S, 6), "a test")
    assert not any("two different documents" in problem for problem in holder.states.problems())


async def test_a_flood_is_remembered_and_told_within_bounds(tmp_path: Path) -> None:
    holder = Holder(tmp_path / "fleet")
    holder.states.judge(S.first(), OTHER)
    for version in range(1, 400):
        holder.states.judge(S.head(version, root=500), PEER)
        holder.states.judge(b"%d" % version, PEER)
    assert sum(map(len, holder.states._waiting.values())) <= module.WAITING_OF_ONE
    status = holder.states.status()
    assert status.refused == 399
    assert len(status.refusals) == 1


async def test_many_who_flood_do_not_fill_the_memory(tmp_path: Path) -> None:
    holder = Holder(tmp_path / "fleet")
    holder.states.judge(S.first(), OTHER)
    raw = [S.head(version, root=500) for version in range(1, 60)]
    for number in range(20):
        for one in raw:
            holder.states.judge(one, key_of(f"liar {number}").peer_id)
    assert sum(map(len, holder.states._waiting.values())) <= module.WAITING


# --- rotation


SECOND = sealed(S.root_of(2, state=role("s4", "s5", threshold=2)), "r1", "r2")


async def test_what_came_too_early_is_taken_when_what_it_builds_on_comes(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    holder = Holder(tmp_path / "fleet")
    raw = body("r.example/a:7")
    late = S.head(7, body=raw, by=("s4", "s5"), root=2)
    third = sealed(S.root_of(3, state=role("s4", "s5", threshold=1)), "r1", "r2")
    for one in (late, third, SECOND):
        assert judged(holder, one)[0] is Judgement.LATER
    assert judged(holder, S.first())[0] is Judgement.NEWS
    assert sorted(told(holder)) == ["root/2", "root/3", "state"]
    assert holder.states.status().root == 3
    assert holder.states.status().pending == 7


async def test_a_revoked_one_stays_in_force_and_is_not_passed_on(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    holder = Holder(tmp_path / "fleet")
    nursery.start_soon(holder.states.run)
    await holder.states.offer(state_file(S, 2**40), "a test")
    await settle()
    holder.states.judge(SECOND, PEER)
    assert [event.name for event in holder.fed if isinstance(event, ItemDropped)] == ["state"]
    assert holder.in_force == 2**40
    assert holder.states.status().revoked
    assert any("do not count any more" in problem for problem in holder.states.problems())
    again = Holder(tmp_path / "fleet")
    await settle()
    nursery.cancel_scope.cancel()
    assert again.in_force == 2**40


async def test_after_a_theft_a_lower_revision_comes_in_force(tmp_path: Path, nursery: trio.Nursery) -> None:
    holder = Holder(tmp_path / "fleet")
    nursery.start_soon(holder.states.run)
    await holder.states.offer(state_file(S, 2**40), "a test")
    await settle()
    raw = body("r.example/a:7")
    file = StateFile((SECOND,), S.head(7, body=raw, by=("s4", "s5"), root=2), raw)
    assert await holder.states.offer(file, "a test") == 7
    await settle()
    assert holder.in_force == 7
    assert Holder(tmp_path / "fleet").in_force == 7


# --- over restarts


async def test_the_highest_version_seen_survives_a_restart_though_its_body_never_came(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    holder = Holder(tmp_path / "fleet")
    async with trio.open_nursery() as first:
        first.start_soon(holder.states.run)
        await holder.states.offer(state_file(S, 5), "a test")
        await settle()
        holder.states.judge(S.head(9), PEER)
        await settle()
        first.cancel_scope.cancel()
    again = Holder(tmp_path / "fleet")
    nursery.start_soon(again.states.run)
    await settle()
    assert again.in_force == 5
    assert [one.version for one in again.accepted] == [5]
    assert told(again) == ["root/1", "state"]
    with pytest.raises(StateError, match="older"):
        await again.states.offer(state_file(S, 8), "a test")
    assert again.states.next_version == 10


async def test_announcements_without_bodies_do_not_take_what_is_in_force(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    await _in_force(tmp_path, 5)
    holder = Holder(tmp_path / "fleet")
    nursery.start_soon(holder.states.run)
    for version in range(6, 40):
        holder.states.judge(S.head(version), PEER)
        await settle()
    assert Holder(tmp_path / "fleet").in_force == 5


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 100])
@pytest.mark.parametrize("name", ["trusted.json", "trusted.copy.json"])
async def test_one_copy_may_be_damaged(tmp_path: Path, name: str, damage: bytes) -> None:
    await _in_force(tmp_path, 5)
    (tmp_path / "fleet" / name).write_bytes(damage)
    again = Holder(tmp_path / "fleet")
    assert again.in_force == 5
    assert again.states.next_version == 6
    async with trio.open_nursery() as nursery:  # and is mended
        nursery.start_soon(again.states.run)
        await settle()
        nursery.cancel_scope.cancel()
    one, other = (tmp_path / "fleet" / one for one in ("trusted.json", "trusted.copy.json"))
    assert one.read_bytes() == other.read_bytes()


async def test_of_two_damaged_copies_what_is_left_is_put_together(tmp_path: Path) -> None:
    await _in_force(tmp_path, 5)
    for name, at in (("trusted.json", b"head.v1"), ("trusted.copy.json", b"root.v1")):
        path = tmp_path / "fleet" / name
        path.write_bytes(path.read_bytes().replace(at, b"none.v1"))
    again = Holder(tmp_path / "fleet")
    assert again.states.next_version == 6


async def test_a_damaged_body_is_fetched_again_and_no_older_one_takes_its_place(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _in_force(tmp_path, 4)
    await _in_force(tmp_path, 5)
    file = state_file(S, 5)
    assert file.body is not None
    path = tmp_path / "fleet" / "bodies" / Digest.of(file.body).hex
    path.write_bytes(file.body[:-2])
    again = Holder(tmp_path / "fleet")
    nursery.start_soon(again.states.run)
    await trio.sleep(5)
    assert again.in_force is None
    again.bodies.there[Digest.of(file.body)] = file.body
    await trio.sleep(module.RETRY_LIMIT)
    assert again.in_force == 5
    assert path.read_bytes() == file.body


async def test_a_full_disk_is_told_and_keeps_nothing_from_being_in_force(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = Holder(tmp_path / "fleet")
    nursery.start_soon(holder.states.run)
    full = True
    save, put = Keeping.save, Keeping.put_body

    def guarded(name: str, *args: object) -> None:
        if full:
            raise StorageFullError("no room left")
        (save if name == "save" else put)(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(Keeping, "save", lambda *args: guarded("save", *args))
    monkeypatch.setattr(Keeping, "put_body", lambda *args: guarded("put_body", *args))
    await holder.states.offer(state_file(S, 5), "a test")
    await trio.sleep(1)
    assert holder.in_force == 5
    assert "no room left" in holder.states.problems()
    full = False
    await trio.sleep(module.SAVE_AGAIN + 1)
    assert holder.states.problems() == []
    assert Holder(tmp_path / "fleet").in_force == 5


async def test_a_full_store_is_asked_again_to_give_it_to_peers(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    holder = Holder(tmp_path / "fleet")
    holder.bodies.full = True
    nursery.start_soon(holder.states.run)
    await holder.states.offer(state_file(S, 5), "a test")
    await trio.sleep(1)
    assert holder.in_force == 5
    assert holder.bodies.kept is None
    holder.bodies.full = False
    await trio.sleep(module.SAVE_AGAIN + 1)
    assert holder.bodies.kept == holder.accepted[0].digest


async def test_after_a_restart_peers_get_it_from_here_again(tmp_path: Path, nursery: trio.Nursery) -> None:
    await _in_force(tmp_path, 5)
    again = Holder(tmp_path / "fleet")
    nursery.start_soon(again.states.run)
    await settle()
    assert again.bodies.kept == again.accepted[0].digest


async def test_whoever_publishes_waits_until_it_is_in_force_and_no_longer(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    holder = Holder(tmp_path / "fleet")
    nursery.start_soon(holder.states.run)
    began = trio.current_time()
    await holder.states.settled(5)  # nothing was accepted
    await holder.states.offer(state_file(S, 5), "a test")
    await holder.states.settled(5)
    assert holder.in_force == 5
    raw = b'{"word of the future": 1}'
    holder.bodies.there[Digest.of(raw)] = raw
    holder.states.judge(S.head(6, body=raw), PEER)
    await holder.states.settled(5)
    assert trio.current_time() == began
    await holder.states.offer(StateFile((), S.head(7)), "a test")
    await holder.states.settled(5)
    assert trio.current_time() == began + 5


async def _in_force(tmp_path: Path, version: int) -> None:
    holder = Holder(tmp_path / "fleet")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(holder.states.run)
        await holder.states.offer(state_file(S, version), "a test")
        await settle()
        assert holder.in_force == version
        nursery.cancel_scope.cancel()


# --- what is told


async def test_earlier_revisions_can_be_had(tmp_path: Path) -> None:
    for version in (4, 5):
        await _in_force(tmp_path, version)
    holder = Holder(tmp_path / "fleet")
    assert await holder.states.file() == state_file(S, 5)
    assert await holder.states.file(4) == state_file(S, 4)
    assert holder.states.status().revisions == (4, 5)
    with pytest.raises(NotFoundError, match="accepted lately: 4, 5"):
        await holder.states.file(3)


async def test_without_any_there_are_the_roots(tmp_path: Path) -> None:
    holder = Holder(tmp_path / "fleet")
    assert await holder.states.file() == StateFile()
    holder.states.judge(S.first(), PEER)
    assert await holder.states.file() == StateFile((S.first(),))


async def test_that_it_expired_or_will_is_told(tmp_path: Path) -> None:
    await _in_force(tmp_path, 5)
    late = Holder(tmp_path / "fleet", unix=lambda: NOW + 91 * DAY)
    assert late.in_force == 5
    assert late.states.status().expired
    (problem,) = late.states.problems()
    assert "has expired" in problem
    later = Holder(tmp_path / "fleet", unix=lambda: NOW + 340 * DAY)
    assert any("root 1 expires" in problem for problem in later.states.problems())
