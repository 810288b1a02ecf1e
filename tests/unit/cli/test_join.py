"""`meshsat join` against a real enroller on loopback; one process plays both, in two threads."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from meshsat.mesh.enrol import Enroller
from meshsat.mesh.identity import Identity, is_member, load, make_token
from meshsat.mesh.libp2p_transport import Libp2pTransport
from meshsat.mesh.token_ledger import TokenLedger
from meshsat.metrics import Metrics
from meshsat.trust.passes import NODE
from meshsat.trust.tokens import Grant
from tests.fleet import Fleet
from tests.unit.cli.conftest import Meshsat


class RunningEnroller:
    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.address = ""

    def token(self, uses: int = 1, *, hint: bool = False) -> str:
        addresses = (self.address,) if hint else ()
        return make_token(
            self.identity, Grant("train-1", frozenset({NODE}), uses, time.time() + 60, addresses)
        )


@pytest.fixture(scope="module")
def enroller() -> Iterator[RunningEnroller]:
    running = RunningEnroller(Fleet("trains").member(enroller=True))
    up = threading.Event()
    stop: list[Callable[[], None]] = []

    async def unused(_protocol: str, _stream: object) -> None:
        raise AssertionError

    async def serve() -> None:
        handler = Enroller(running.identity, TokenLedger(None)).answer
        transport = Libp2pTransport(
            running.identity, (), Metrics(), listen="127.0.0.1", enrol_handler=handler
        )
        async with trio.open_nursery() as nursery:
            token = trio.lowlevel.current_trio_token()
            await nursery.start(transport.serve, unused)
            (running.address,) = transport.addresses
            stop.append(lambda: token.run_sync_soon(nursery.cancel_scope.cancel))
            up.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert up.wait(30)
    yield running
    stop[0]()
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(autouse=True)
def no_mdns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHSAT_MESH__MDNS", "false")


def test_a_token_on_stdin_makes_a_member(
    meshsat: Meshsat, enroller: RunningEnroller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(enroller.token() + "\n"))
    ended = meshsat("join", "-", "--peer", enroller.address, "--name", "coach-8", "--data-dir", tmp_path)
    assert (ended.code, ended.err) == (0, "")
    member = load(tmp_path).member
    assert (member.name, member.site, member.roles) == ("coach-8", "train-1", frozenset({NODE}))
    assert member.fleet in ended.out


def test_the_tokens_own_address_is_enough_and_a_file_will_do(
    meshsat: Meshsat, enroller: RunningEnroller, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(enroller.token(hint=True))
    assert meshsat("join", "--token-file", file, "--data-dir", tmp_path / "data").code == 0
    assert is_member(tmp_path / "data")


def test_a_token_that_is_used_up_is_refused_with_the_reason(
    meshsat: Meshsat, enroller: RunningEnroller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshsat.cli.enrolment.GRACE", 0.1)
    token = enroller.token(hint=True)
    assert meshsat("join", token, "--data-dir", tmp_path / "1").code == 0
    assert meshsat("join", token, "--data-dir", tmp_path / "1").code == 0  # the same machine again
    ended = meshsat("join", token, "--data-dir", tmp_path / "2")
    assert ended.code == 1
    assert "used up" in ended.err
    assert not is_member(tmp_path / "2")
    assert token not in ended.err + ended.out


@pytest.mark.slow
def test_nobody_there_is_told_at_the_deadline(
    meshsat: Meshsat, enroller: RunningEnroller, tmp_path: Path
) -> None:
    ended = meshsat(
        "join", enroller.token(), "--peer", "127.0.0.1:1", "--timeout", "1s", "--data-dir", tmp_path
    )
    assert ended.code == 1
    assert "127.0.0.1:1" in ended.err


def test_a_member_of_another_fleet_is_not_taken_over(
    meshsat: Meshsat, enroller: RunningEnroller, tmp_path: Path
) -> None:
    meshsat("init", "boats", "--data-dir", tmp_path)
    ended = meshsat("join", enroller.token(hint=True), "--data-dir", tmp_path)
    assert ended.code == 2
    assert "boats" in ended.err
    assert load(tmp_path).member.fleet.startswith("boats-")


@pytest.mark.parametrize(
    "arguments", [(), ("-", "--token-file", "x"), ("--token-file", "/nonexistent"), ("hello",)]
)
def test_what_is_no_token_is_misuse(meshsat: Meshsat, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ended = meshsat("join", *arguments, "--data-dir", tmp_path)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
