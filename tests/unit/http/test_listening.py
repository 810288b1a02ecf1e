import os
import resource
import socket
import stat
from pathlib import Path

import pytest

from meshsat.errors import ConfigError
from meshsat.http.listening import FEWEST, OTHER_FILES, Bind, TcpBind, UnixBind, seats_for
from meshsat.http.server import serve_app
from tests.serving import ANY, ask, connect, hello, served
from tests.tools import miss


async def test_ipv6_is_told_in_brackets() -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        miss("no IPv6 on this machine")
    async with served(hello, TcpBind("::1", 0)) as (address,):
        assert address.startswith("[::1]:")
        await ask(await connect(address))


async def test_a_unix_socket_is_for_its_owner_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with served(hello, UnixBind(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_socket_left_by_a_killed_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    left = socket.socket(socket.AF_UNIX)
    left.bind(os.fspath(path))
    left.close()
    async with served(hello, UnixBind(path)) as (address,):
        await ask(await connect(address))


async def test_a_living_socket_and_a_plain_file_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    async with served(hello, UnixBind(tmp_path / "s")) as (address,):
        for path in (tmp_path / "s", file):
            with pytest.raises(ConfigError, match=f"cannot listen on unix:{path}"):
                await serve_app(hello, [UnixBind(path)])
        await ask(await connect(address))
    assert file.read_text() == "precious"


async def test_an_address_in_use_is_told_and_nothing_stays_bound() -> None:
    async with served(hello) as (address,):
        port = int(address.rpartition(":")[2])
        with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{port}: Address already in use"):
            await serve_app(hello, [ANY, TcpBind("127.0.0.1", port)])


@pytest.mark.parametrize("bind", [TcpBind("host.invalid", 0), UnixBind(Path("/" + "x" * 120))])
async def test_an_address_that_cannot_be_is_told(bind: Bind) -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        await serve_app(hello, [bind])


@pytest.mark.parametrize(
    ("soft", "hard", "seats", "raised"),
    [
        (10_000, 10_000, 1000, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1000, None),
        (1024, 10_000, 1000, 2000 + OTHER_FILES),
        (1024, resource.RLIM_INFINITY, 1000, 2000 + OTHER_FILES),
        (1024, 1112, (1112 - OTHER_FILES) // 2, 1112),
        (100, 100, FEWEST, 100),
    ],
)
def test_there_are_as_many_seats_as_there_may_be_files(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, seats: int, raised: int | None
) -> None:
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _which, limits: set_to.append(limits))
    assert seats_for(1000) == seats
    assert set_to == ([] if raised is None else [(raised, hard)])


def test_a_limit_that_cannot_be_raised_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_which: int, _limits: tuple[int, int]) -> None:
        raise PermissionError

    monkeypatch.setattr(resource, "getrlimit", lambda _which: (1024, 10_000))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert seats_for(1000) == (1024 - OTHER_FILES) // 2
