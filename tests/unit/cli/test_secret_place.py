from pathlib import Path

from meshsat.cli.secret_place import secret_place
from meshsat.config import Config
from tests.unit.cli.conftest import FakeNode


def test_the_same_by_the_node_and_beside_it(tmp_path: Path, node: FakeNode) -> None:
    places = [secret_place(Config.load(data_dir=directory), {}) for directory in (tmp_path, node.data_dir)]
    told = []
    for place in places:
        assert place.login("reg.test", "bob", "hunter2") == "key file"
        listed = place.secrets()
        assert listed["logins"][0].pop("since") > 0
        told.append(
            (listed, place.rotate(), place.logout("reg.test"), place.logout("reg.test"), place.secrets())
        )
    assert told[0] == told[1]
    assert told[0][2:4] == (True, False)


def test_a_socket_that_nobody_listens_on_is_no_node(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "api.sock"))
    assert secret_place(Config.load(data_dir=tmp_path), {}).login("reg.test", "bob", "x") == "key file"
