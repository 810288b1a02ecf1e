"""Checking passwords: what is right, what costs how much, who waits, and what changes with the file."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import bcrypt
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from meshsat.audit.event import Actor
from meshsat.errors import ConfigError
from meshsat.registry import passwords
from meshsat.registry.authorization import Password
from meshsat.registry.passwords import ADDRESSES, FAILURES, PAUSE, Attempts, Passwords, TooManyError
from tests.htpasswd import hashed, write_htpasswd
from tests.recorded import Recorded

ADA = Password("ada", b"secret")
WRONG = Password("ada", b"guess")
HERE = "192.0.2.7"


class Checker:
    """bcrypt, counted."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bytes]] = []

    def __call__(self, secret: bytes, hashed_: bytes) -> bool:
        self.asked.append((secret, hashed_))
        return bcrypt.checkpw(secret, hashed_)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_htpasswd(tmp_path / "users", {"ada": "secret", "bob": "hunter2"})


async def test_right_is_right_and_the_rest_is_not(path: Path) -> None:
    users = Passwords(path)
    assert await users.right(ADA, HERE)
    for name, secret in (
        ("ada", b"hunter2"),
        ("bob", b"secret"),
        ("eve", b"secret"),
        ("", b"x"),
        ("ada", b""),
    ):
        assert not await users.right(Password(name, secret), HERE)
    assert await users.known("ada")
    assert not await users.known("eve")


async def test_what_is_right_is_checked_once_a_minute(path: Path, autojump_clock: MockClock) -> None:
    checker = Checker()
    users = Passwords(path, checker)
    for _ in range(5):
        assert await users.right(ADA, HERE)
    assert len(checker.asked) == 1
    await trio.sleep(passwords.REMEMBER)
    assert await users.right(ADA, HERE)
    assert len(checker.asked) == 2


async def test_nothing_that_is_remembered_tells_the_password(path: Path) -> None:
    users = Passwords(path)
    await users.right(ADA, HERE)
    (key,) = users._right
    assert b"secret" not in key
    assert key != next(iter(await _after_right(Passwords(path))))  # keyed by chance


async def _after_right(users: Passwords) -> dict[bytes, object]:
    await users.right(ADA, HERE)
    return dict(users._right)


async def test_a_stranger_costs_a_check_like_anybody_and_always_the_same(path: Path) -> None:
    checker = Checker()
    users = Passwords(path, checker)
    for _ in range(3):
        assert not await users.right(Password("eve", b"secret"), HERE)
    assert len(checker.asked) == 3
    assert len({against for _, against in checker.asked}) == 1


async def test_a_stranger_with_somebodys_password_stays_out(path: Path) -> None:
    """Whatever hash the stranger's name is checked against."""
    users = Passwords(path)
    for number in range(6):
        for secret in (b"secret", b"hunter2"):
            assert not await users.right(Password(f"eve{number}", secret), f"192.0.2.{number}")


async def test_equal_questions_at_once_are_one(path: Path) -> None:
    checker = Checker()
    users = Passwords(path, checker)
    answers: list[bool] = []

    async def ask() -> None:
        answers.append(await users.right(ADA, HERE))

    async with trio.open_nursery() as nursery:
        for _ in range(3 * FAILURES):
            nursery.start_soon(ask)
    assert answers == [True] * 3 * FAILURES
    assert len(checker.asked) == 1


async def test_who_guesses_waits_and_nobody_else(path: Path, autojump_clock: MockClock) -> None:
    checker = Checker()
    users = Passwords(path, checker)
    for _ in range(FAILURES):
        assert not await users.right(WRONG, HERE)
    for _ in range(5):
        with pytest.raises(TooManyError) as many:
            await users.right(WRONG, HERE)
        assert 0 < many.value.retry_after <= PAUSE
    assert len(checker.asked) == FAILURES  # a refused guess costs nothing
    with pytest.raises(TooManyError):
        await users.right(ADA, HERE)
    assert await users.right(ADA, "192.0.2.8")
    assert await users.right(ADA, HERE)  # known by now: who is right need not wait
    await trio.sleep(PAUSE)
    assert not await users.right(WRONG, HERE)
    with pytest.raises(TooManyError):
        await users.right(WRONG, HERE)


async def test_many_guesses_at_once_are_no_way_around(path: Path) -> None:
    checker = Checker()
    users = Passwords(path, checker)
    refused: list[int] = []

    async def guess(number: int) -> None:
        try:
            assert not await users.right(Password("ada", b"%d" % number), HERE)
        except TooManyError:
            refused.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(guess, number)
    assert len(checker.asked) == FAILURES
    assert len(refused) == 50 - FAILURES


async def test_the_right_password_never_uses_up_attempts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "REMEMBER", 0.0)
    checker = Checker()
    users = Passwords(path, checker)
    for _ in range(3 * FAILURES):
        assert await users.right(ADA, HERE)
    assert len(checker.asked) == 3 * FAILURES


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("", "", True),
    ],
)
async def test_what_counts_as_one_address(path: Path, one: str, other: str, same: bool) -> None:
    users = Passwords(path, Checker())
    for _ in range(FAILURES):
        await users.right(WRONG, one)
    try:
        await users.right(WRONG, other)
    except TooManyError:
        assert same
    else:
        assert not same


async def test_waiting_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "WAITING_LIMIT", 3)
    go_on = threading.Event()
    users = Passwords(path, lambda *_: go_on.wait(20) and False)
    await users.known("ada")
    refused: list[float] = []

    async def ask(number: int) -> None:
        try:
            await users.right(Password("ada", b"%d" % number), f"192.0.2.{number}")
        except TooManyError as many:
            refused.append(many.retry_after)

    async with trio.open_nursery() as nursery:
        for number in range(passwords.CHECKS + 3 + 4):
            nursery.start_soon(ask, number)
        await trio.testing.wait_all_tasks_blocked()
        assert refused == [1.0] * 4
        go_on.set()
    assert len(refused) == 4


async def test_a_check_given_up_leaves_its_companions_their_own(path: Path) -> None:
    """The first asker goes away: the second gets an answer."""
    users = Passwords(path)
    answers: list[bool] = []
    scope = trio.CancelScope()

    async def first() -> None:
        with scope:
            await users.right(ADA, HERE)
            await trio.sleep_forever()

    async def second() -> None:
        answers.append(await users.right(ADA, HERE))

    await users.known("ada")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        nursery.start_soon(second)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
    assert answers == [True]


async def test_bcrypt_sees_72_bytes_as_apaches_tool_has_it(tmp_path: Path) -> None:
    long = "x" * 72
    path = write_htpasswd(tmp_path / "users", {"ada": long})
    users = Passwords(path)
    assert await users.right(Password("ada", long.encode() + b"more"), HERE)
    assert not await users.right(Password("ada", long[:-1].encode()), HERE)


async def test_the_file_is_read_again_when_it_changes(path: Path, autojump_clock: MockClock) -> None:
    users = Passwords(path)
    assert await users.right(ADA, HERE)
    write_htpasswd(path, {"bob": "hunter2", "eve": "new"})
    await trio.sleep(passwords.LOOK)
    assert not await users.right(ADA, HERE)  # though it was remembered
    assert not await users.known("ada")
    assert await users.right(Password("eve", b"new"), HERE)


async def test_a_new_password_ends_the_old_one(path: Path, autojump_clock: MockClock) -> None:
    users = Passwords(path)
    assert await users.right(ADA, HERE)
    write_htpasswd(path, {"ada": "other"})
    await trio.sleep(passwords.LOOK)
    assert not await users.right(ADA, HERE)
    assert await users.right(Password("ada", b"other"), HERE)


def _gone(path: Path) -> None:
    path.unlink()


def _open(path: Path) -> None:
    path.chmod(0o644)


def _broken(path: Path) -> None:
    path.write_text(f"ada:{hashed('x')}\neve:plain\n")


def _empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("harm", [_gone, _open, _broken, _empty], ids=lambda harm: harm.__name__)
async def test_a_file_that_cant_be_used_leaves_the_users_of_before(
    path: Path, autojump_clock: MockClock, harm: Callable[[Path], None]
) -> None:
    users = Passwords(path)
    harm(path)
    await trio.sleep(passwords.LOOK)
    with capture_logs() as logs:
        assert await users.right(ADA, HERE)
        await trio.sleep(passwords.LOOK)
        assert await users.right(ADA, HERE)
    assert users.problem is not None
    assert str(path) in users.problem
    assert len(logs) == 1  # told once
    write_htpasswd(path, {"eve": "new"})
    await trio.sleep(passwords.LOOK)
    assert await users.right(Password("eve", b"new"), HERE)
    assert users.problem is None


def test_a_file_that_cant_be_used_keeps_the_node_from_starting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Passwords(tmp_path / "none")


async def test_neither_password_nor_a_mistyped_name_is_logged(path: Path) -> None:
    users = Passwords(path)
    with capture_logs() as logs:
        await users.right(Password("ada", b"hunter3"), HERE)
        await users.right(Password("hunter2", b"x"), HERE)
    assert [entry["user"] for entry in logs] == ["ada", None]
    assert "hunter" not in str(logs)


def test_attempts_come_back_and_are_bounded() -> None:
    attempts = Attempts()
    for _ in range(FAILURES):
        attempts.take("a", 0.0)
    with pytest.raises(TooManyError):
        attempts.take("a", PAUSE / 2)
    attempts.take("a", PAUSE)
    attempts.give_back("a", PAUSE)
    attempts.take("a", PAUSE)
    attempts.give_back("b", 0.0)
    assert "b" not in attempts._left  # nothing is kept of who has all
    for number in range(ADDRESSES + 10):
        attempts.take(str(number), PAUSE)
    assert len(attempts._left) == ADDRESSES


async def test_logins_are_recorded_once_an_hour_and_strange_names_never(
    path: Path, autojump_clock: MockClock
) -> None:
    audit = Recorded()
    users = Passwords(path, bcrypt.checkpw, audit=audit)
    for _ in range(3):
        await users.right(ADA, HERE)
        await users.right(WRONG, HERE)
        await users.right(Password("s3cret in the wrong field", b"x"), HERE)
        await trio.sleep(passwords.REMEMBER + 1)
    assert [(entry.actor, entry.outcome, entry.reason) for entry in audit.of("user.login")] == [
        (Actor("client", "ada", HERE), "success", ""),
        (Actor("client", "ada", HERE), "failure", "bad_password"),
        (Actor("client", "", HERE), "failure", "unknown_user"),
    ]
    assert "s3cret" not in repr(audit.entries)


async def test_one_too_many_is_recorded(path: Path, autojump_clock: MockClock) -> None:
    audit = Recorded()
    users = Passwords(path, lambda _secret, _hash: False, audit=audit)
    for number in range(FAILURES):
        await users.right(Password("ada", b"%d" % number), HERE)
    with pytest.raises(TooManyError):
        await users.right(WRONG, HERE)
    assert [entry.reason for entry in audit.of("user.login")] == ["bad_password", "rate_limited"]
