import socket
import stat
import threading
from pathlib import Path

import pytest

from meshsat.cli import client
from meshsat.cli.client import NodeClient
from meshsat.errors import DeniedError, MeshsatError, UnavailableError
from tests.unit.cli.conftest import FakeNode, Meshsat


def test_no_node_says_so_and_how_to_start_one(meshsat: Meshsat, short_dir: Path) -> None:
    ended = meshsat("status", "--data-dir", short_dir)
    assert ended.code == 1
    assert f"no node runs on {short_dir}; start it with: meshsat node --data-dir {short_dir}" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_the_socket_of_a_node_that_was_killed_is_no_node(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(short_dir / "api.sock"))
    with pytest.raises(UnavailableError, match="no node runs"):
        NodeClient(short_dir).get("/api/v1/status")


def test_another_users_node_is_told_apart_from_none(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(DeniedError, match="as the user who runs the node"):
        NodeClient(short_dir).get("/api/v1/status")


def test_a_refused_connection_is_told_apart_from_none(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: socket.socket, _address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(DeniedError, match="not allowed"):
        NodeClient(node.data_dir).get("/api/v1/status")


def test_a_node_that_hangs_is_told(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_LIMIT", 0.05)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(short_dir / "api.sock"))
        mute.listen()
        with pytest.raises(UnavailableError, match="does not answer"):
            NodeClient(short_dir).get("/api/v1/status")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnot", "went away in mid-answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnot", "not JSON"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\nlost", "lost"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\n[]", "500"),
    ],
)
def test_an_answer_that_is_none_is_told(short_dir: Path, answer: bytes, told: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_dir / "api.sock"))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(MeshsatError, match=told):
            NodeClient(short_dir).get("/api/v1/status")
        thread.join()


def test_the_nodes_own_words_are_passed_on(node: FakeNode) -> None:
    with pytest.raises(MeshsatError, match=r"the node says: .*Not Found"):
        NodeClient(node.data_dir).get("/api/v1/nothing")


def test_the_socket_is_the_owners_alone(node: FakeNode) -> None:
    assert stat.S_IMODE((node.data_dir / "api.sock").stat().st_mode) == 0o600
