"""A file as a source: what is in it is offered once it changed, and what is wrong with it is told."""

import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from meshsat.fleet.file_source import LOOK, FileSource
from meshsat.fleet.state_file import FILE_LIMIT, StateFile, encode_state_file
from meshsat.store.disk import Threads
from meshsat.trust.state_documents import Refused, StateError
from tests.authors import Signers
from tests.states import state_file

S = Signers()


class Taking:
    def __init__(self) -> None:
        self.offered: list[tuple[StateFile, str]] = []
        self.refuses = False

    async def offer(self, file: StateFile, source: str) -> int | None:
        await trio.lowlevel.checkpoint()
        self.offered.append((file, source))
        if self.refuses:
            raise StateError(Refused.ROLLBACK, "it is older")
        return 1


def source(path: Path) -> tuple[FileSource, Taking]:
    taking = Taking()
    return FileSource(path, taking.offer, Threads(0)), taking


def put(path: Path, file: StateFile) -> None:
    """As people do: another file takes its place."""
    path.with_suffix(".new").write_bytes(encode_state_file(file))
    path.with_suffix(".new").replace(path)


async def test_it_is_offered_when_it_changes(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    path = tmp_path / "x.state"
    found, taking = source(path)
    nursery.start_soon(found.run)
    await trio.sleep(1)
    assert found.problem is not None
    assert "No such file" in found.problem
    for version in (1, 2):
        put(path, state_file(S, version))
        await trio.sleep(3 * LOOK)
        assert found.problem is None
        assert len(taking.offered) == version
    assert taking.offered[1] == (state_file(S, 2), f"file {path}")


async def test_what_is_refused_is_told_and_not_offered_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "x.state"
    found, taking = source(path)
    taking.refuses = True
    put(path, state_file(S, 1))
    for _ in range(3):
        await found.look()
    assert len(taking.offered) == 1
    assert found.problem is not None
    assert "it is older" in found.problem


@pytest.mark.parametrize("raw", [b"", b"not one", bytes(FILE_LIMIT + 10)])
async def test_endless_data_or_noise_in_it(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "x.state"
    path.write_bytes(raw)
    found, taking = source(path)
    await found.look()
    assert taking.offered == []
    assert found.problem is not None


async def test_a_directory_in_its_place_is_told(tmp_path: Path) -> None:
    found, _ = source(tmp_path)
    await found.look()
    assert found.problem is not None
    assert "directory" in found.problem


async def test_a_pipe_in_its_place_is_told_and_holds_up_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    found, _ = source(tmp_path / "pipe")
    await found.look()
    assert "no regular file" in str(found.problem)
