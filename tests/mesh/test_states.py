"""The desired state on whole sites: who comes late, who is cut off, who lies."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from meshsat.fleet import states
from meshsat.fleet.state_file import StateFile
from meshsat.oci.digest import Digest
from meshsat.protocol import wire
from meshsat.protocol.spread import Kind
from meshsat.trust import dsse, trusted_state
from tests.authors import NOW, Signers, role
from tests.mesh.stating import Authors, Follower, following

APART = 40.0
"""Seconds after which sessions over a cut are given up, though both sides are idle."""


def authors_of(nodes: list[Follower]) -> Authors:
    return Authors(nodes[0].full.site.fleet)


async def offer(node: Follower, file: StateFile) -> None:
    await node.states.offer(file, "a test")


def say(liar: Follower, to: Follower, *records: bytes) -> None:
    """A member passes on whatever it likes."""
    link = liar.full.node.driver.links[to.full.node.peer]
    link.send(wire.News(tuple((int(Kind.STATE), raw) for raw in records), more=False))


def in_force(nodes: list[Follower]) -> list[int | None]:
    return [node.in_force for node in nodes]


async def test_it_is_everywhere_within_two_seconds(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with following(tmp_path, "a", "b", "c", "d") as nodes:
        await offer(nodes[2], authors_of(nodes).file(1))
        await trio.sleep(2)
        assert in_force(nodes) == [1, 1, 1, 1]


async def test_a_late_joiner_follows_all_roots_and_has_the_newest(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with following(tmp_path, "a", "b", "late") as nodes:
        *early, late = nodes
        site = late.full.site
        site.network.partition(["a", "b"], ["late"])
        await trio.sleep(APART)
        authors = authors_of(nodes)
        for number in range(2, 20):
            authors.rotate(state=role(f"s{number}"))
        await offer(early[0], authors.file(7, by="s19", root=19))
        await trio.sleep(5)
        assert in_force(nodes) == [7, 7, None]
        site.network.heal_all()
        site.introduce(site.nodes)
        await trio.sleep(10)
        assert late.in_force == 7
        assert late.states.status().root == 19


async def test_two_halves_agree_when_they_meet(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with following(tmp_path, "a", "b", "c", "d") as nodes:
        site, authors = nodes[0].full.site, authors_of(nodes)
        await offer(nodes[0], authors.file(1))
        await trio.sleep(2)
        site.network.partition(["a", "b"], ["c", "d"])
        await trio.sleep(APART)
        await offer(nodes[0], authors.file(2))
        authors.rotate(state=role("s1", "s2"))
        await offer(nodes[3], authors.file(3, by="s2", root=2))
        await trio.sleep(5)
        assert in_force(nodes) == [2, 2, 3, 3]
        site.network.heal_all()
        site.introduce(site.nodes)
        await trio.sleep(60)
        assert in_force(nodes) == [3, 3, 3, 3]


async def test_two_of_one_version_stay_apart_are_told_and_end_with_the_next(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Their signers' fault: nobody is cut off for it, and nothing goes back and forth."""
    async with following(tmp_path, "a", "b", "c", "d") as nodes:
        site, authors = nodes[0].full.site, authors_of(nodes)
        site.network.partition(["a", "b"], ["c", "d"])
        await trio.sleep(APART)
        await offer(nodes[0], authors.file(1))
        await offer(nodes[3], authors.file(1, raw=b'{"images": []}'))
        await trio.sleep(5)
        site.network.heal_all()
        site.introduce(site.nodes)
        await trio.sleep(120)
        assert nodes[0].knows(nodes[3])
        assert [node.revisions for node in nodes] == [[1]] * 4
        assert any("two different" in problem for node in nodes for problem in node.sources.problems())
        await offer(nodes[1], authors.file(2))
        await trio.sleep(2)
        assert in_force(nodes) == [2, 2, 2, 2]
        assert all(node.sources.problems() == [] for node in nodes)


async def test_forged_states_cost_their_bringer_the_session_and_nobody_else_anything(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(tmp_path, "a", "b", "liar") as nodes:
        a, b, liar = nodes
        authors = authors_of(nodes)
        await offer(a, authors.file(3))
        await trio.sleep(2)
        checks = 0
        verify = dsse.only_valid

        def counted(*args: object) -> object:
            nonlocal checks
            checks += 1
            return verify(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(trusted_state, "only_valid", counted)
        with capture_logs() as logs:
            for victim in (a, b):
                for start in range(0, 1000, 100):
                    forged = [authors.head(version, by="liar") for version in range(start + 9, start + 109)]
                    say(liar, victim, *forged)
            await trio.sleep(5)
        assert not a.knows(liar)
        assert not b.knows(liar)
        assert a.knows(b)
        assert in_force([a, b]) == [3, 3]
        assert checks < 500
        told = [one for one in logs if one["event"] == "a desired state is refused"]
        assert len(told) <= 2 * len(nodes)
        await offer(b, authors.file(4))
        await trio.sleep(2)
        assert in_force([a, b]) == [4, 4]


@pytest.mark.parametrize("what", ["foreign", "noise", "endless", "threshold"])
async def test_each_kind_of_forgery_is_one(tmp_path: Path, what: str, autojump_clock: MockClock) -> None:
    async with following(tmp_path, "a", "b", "liar") as nodes:
        a, b, liar = nodes
        authors = authors_of(nodes)
        await offer(a, authors.file(3))
        await trio.sleep(2)
        other = replace(authors.signers, fleet="other-" + "0" * 20)
        raw = {
            "foreign": Signers.head(other, 9, by=("s1",)),
            "noise": b"{}",
            "endless": b'{"payload":"' + b"A" * 8100 + b'"}',
            "threshold": authors.head(9, by="r1"),
        }[what]
        say(liar, a, raw)
        await trio.sleep(0.5)
        assert not a.knows(liar)
        assert in_force([a, b]) == [3, 3]


async def test_a_replay_and_a_flood_of_what_can_not_be_judged_change_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with following(tmp_path, "a", "b", "liar") as nodes:
        a, b, liar = nodes
        authors = authors_of(nodes)
        for version in (3, 4, 5):
            await offer(a, authors.file(version))
            await trio.sleep(2)
        say(liar, a, authors.head(3), authors.head(4))
        await trio.sleep(1)
        assert a.knows(liar)  # so does an honest one that was away
        for start in range(0, 2000, 100):
            if a.knows(liar):
                say(liar, a, *(authors.head(one + 9, root=500) for one in range(start, start + 100)))
                await trio.sleep(0.05)
        await trio.sleep(2)
        assert sum(map(len, a.states._waiting.values())) <= states.WAITING_OF_ONE
        assert in_force([a, b]) == [5, 5]
        await offer(b, authors.file(6))
        await trio.sleep(2)
        assert in_force([a, b]) == [6, 6]


async def test_a_liar_with_another_body_is_found_out(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says to hold the body, and gives other bytes of the same length."""
    async with following(tmp_path, "a", "b", "liar") as nodes:
        a, b, liar = nodes
        authors = authors_of(nodes)
        file = authors.file(1)
        assert file.body is not None
        digest = Digest.of(file.body)

        async def wrong(chunks: list[object]) -> list[bytes]:
            return [bytes(len(file.body or b""))] * len(chunks)

        monkeypatch.setattr(liar.full.node.driver, "read_chunks", wrong)
        liar.full.node.driver.stored(digest, len(file.body))
        say(liar, b, *authors.roots, authors.head(1))
        await trio.sleep(5)
        assert b.in_force is None
        await offer(a, file)
        await trio.sleep(2 * states.RETRY_LIMIT)
        assert in_force([a, b]) == [1, 1]


async def test_a_revoked_state_is_given_to_no_newcomer(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with following(tmp_path, "a", "b", "late") as nodes:
        a, b, late = nodes
        site, authors = a.full.site, authors_of(nodes)
        site.network.partition(["a", "b"], ["late"])
        await trio.sleep(APART)
        await offer(a, authors.file(2**40))
        await trio.sleep(2)
        authors.rotate(state=role("s2"))
        await offer(b, StateFile(tuple(authors.roots)))
        await trio.sleep(2)
        site.network.heal_all()
        site.introduce(site.nodes)
        await trio.sleep(70)
        assert in_force(nodes) == [2**40, 2**40, None]
        assert late.states.status().root == 2
        await offer(late, authors.file(6, by="s2", root=2))
        await trio.sleep(2)
        assert in_force(nodes) == [6, 6, 6]


async def test_who_missed_a_revocation_is_told_and_not_blamed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with following(tmp_path, "a", "b", "behind") as nodes:
        a, _, behind = nodes
        site, authors = a.full.site, authors_of(nodes)
        await offer(a, authors.file(1))
        await trio.sleep(2)
        site.network.partition(["a", "b"], ["behind"])
        await trio.sleep(APART)
        authors.rotate(state=role("s2"))
        await offer(a, authors.file(2, by="s2", root=2))
        await offer(behind, StateFile((), authors.head(9), authors.body(9)))
        await trio.sleep(5)
        assert in_force(nodes) == [2, 2, 9]
        site.network.heal_all()
        site.introduce(site.nodes)
        await trio.sleep(70)
        assert in_force(nodes) == [2, 2, 2]
        assert a.knows(behind)


async def test_expired_while_nobody_was_there_it_goes_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A dark site: what is in force stays, over expiry and restarts."""
    async with following(tmp_path, "a", "b") as nodes:
        authors = authors_of(nodes)
        await offer(nodes[0], authors.file(1, issued=NOW, expires=NOW + 60))
        await trio.sleep(120)
        assert in_force(nodes) == [1, 1]
        assert all("has expired" in node.sources.problems()[0] for node in nodes)
        again = Follower(nodes[0].full, tmp_path)
        assert again.in_force == 1
