"""The search for an enroller, on trio's clock: what the addresses answer is told by the test."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from meshsat.cli import enrolment
from meshsat.cli.enrolment import DIAL_LIMIT, GRACE, Joiner
from meshsat.errors import DeniedError, InvalidInputError, MeshsatError, UnavailableError
from meshsat.mesh.discovery import Discovery, MemoryDiscovery, MemoryLan, Sighting
from meshsat.mesh.enrol import Membership
from meshsat.mesh.transport import DialError
from meshsat.trust.keys import NodeKey

LIMIT = 30.0
MEMBERSHIP = Membership(b"root", (b"pass",), None)
Answer = Membership | MeshsatError | float
"""What an address does: admit, fail, or be silent until the moment given."""


class Lan:
    """Addresses and what they answer, in the order of being asked; the last answer stays."""

    def __init__(self, **answers: Sequence[Answer]) -> None:
        self.answers = {name: list(answer) for name, answer in answers.items()}
        self.dialled: list[str] = []
        self.shown = 0
        """How many enrollers are being shown the token right now."""

    @asynccontextmanager
    async def open_enrol_stream(
        self, _key: NodeKey, addresses: Sequence[str], _timeout: float
    ) -> AsyncIterator[Any]:
        (address,) = addresses
        self.dialled.append(address)
        answers = self.answers[address]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, float):
            await trio.sleep(DIAL_LIMIT)
            answer = DialError("silence") if trio.current_time() < answer else MEMBERSHIP
        if isinstance(answer, DialError):
            raise answer
        yield answer

    async def join(self, answer: Any, *_: object) -> Membership:
        self.shown += 1
        assert self.shown == 1
        await trio.sleep(0.1)
        self.shown -= 1
        if isinstance(answer, MeshsatError):
            raise answer
        assert isinstance(answer, Membership)
        return answer


class Joined:
    """Searches on a clock of its own, and says how long it took."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.seconds = 0.0

    def __call__(self, lan: Lan, *addresses: str, discovery: Discovery | None = None) -> Membership:
        self._monkeypatch.setattr(enrolment, "open_enrol_stream", lan.open_enrol_stream)
        self._monkeypatch.setattr(enrolment, "join", lan.join)
        joiner = Joiner("token", NodeKey.generate(), "coach-8")

        async def search() -> Membership:
            start = trio.current_time()
            try:
                return await joiner.run(addresses, discovery, LIMIT)
            finally:
                self.seconds = trio.current_time() - start

        return trio.run(search, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Joined:
    return Joined(monkeypatch)


def test_the_first_enroller_that_admits_ends_the_search(joined: Joined) -> None:
    assert joined(Lan(a=[MEMBERSHIP]), "a") is MEMBERSHIP
    assert joined.seconds < 1


def test_a_dead_address_does_not_hold_up_a_live_one(joined: Joined) -> None:
    lan = Lan(dead=[DialError("refused")], mute=[1e9], live=[MEMBERSHIP])
    assert joined(lan, "dead", "mute", "live") is MEMBERSHIP
    assert joined.seconds < 1


def test_an_enroller_that_is_still_starting_is_waited_for(joined: Joined) -> None:
    assert joined(Lan(a=[DialError("refused")] * 5 + [MEMBERSHIP]), "a") is MEMBERSHIP


def test_the_token_is_shown_to_one_at_a_time(joined: Joined) -> None:
    lan = Lan(a=[DeniedError("used up")], b=[DeniedError("used up")], c=[MEMBERSHIP])
    assert joined(lan, "a", "b", "c") is MEMBERSHIP


def test_a_refusal_is_believed_after_a_moment(joined: Joined) -> None:
    lan = Lan(a=[DeniedError("the token is used up")], dead=[DialError("refused")])
    with pytest.raises(DeniedError, match="used up"):
        joined(lan, "a", "dead")
    assert GRACE <= joined.seconds < GRACE + 1
    assert lan.dialled.count("a") == 1


def test_one_that_admits_us_counts_more_than_one_that_refuses(joined: Joined) -> None:
    lan = Lan(a=[DeniedError("no enroller of the fleet")], b=[DialError("refused"), MEMBERSHIP])
    assert joined(lan, "a", "b") is MEMBERSHIP


def test_when_nobody_answers_the_last_fault_is_told_at_the_deadline(joined: Joined) -> None:
    with pytest.raises(UnavailableError, match="within 30 s: connection refused"):
        joined(Lan(a=[DialError("connection refused")]), "a")
    assert joined.seconds == pytest.approx(LIMIT)


def test_without_any_address_it_says_what_to_do(joined: Joined) -> None:
    with pytest.raises(UnavailableError, match="--peer"):
        joined(Lan())


def test_who_is_found_by_mdns_is_asked(joined: Joined) -> None:
    lan = MemoryLan()
    peers = [NodeKey.generate().peer_id for _ in range(2)]
    lan.join(Sighting("trains", peers[0], "train-1", ("a",), ()), lambda _: None)
    looking = MemoryDiscovery(lan, Sighting("trains", peers[1], "train-1", (), ()))
    assert joined(Lan(a=[MEMBERSHIP]), discovery=looking) is MEMBERSHIP


def test_a_flood_of_addresses_is_not_all_tried(joined: Joined) -> None:
    lan = Lan(**{f"a{number}": [DialError("refused")] for number in range(200)})
    with pytest.raises(UnavailableError):
        joined(lan, *lan.answers)
    assert len(set(lan.dialled)) == enrolment.MOST


def test_a_name_that_no_pass_can_hold_is_refused_before_anybody_is_asked() -> None:
    with pytest.raises(InvalidInputError, match="name"):
        Joiner("token", NodeKey.generate(), "coach eight")
