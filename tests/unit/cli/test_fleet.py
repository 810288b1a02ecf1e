import io
import json

import pytest

from tests.unit.cli.conftest import MEMBER, FakeNode, Meshsat


def test_members_as_a_table_and_as_json(meshsat: Meshsat, node: FakeNode) -> None:
    table = meshsat("fleet", "members", "--data-dir", node.data_dir)
    assert table.code == 0
    heading, line = table.out.splitlines()
    assert heading.split() == ["NAME", "SITE", "ROLES", "STATE", "EXPIRES", "SEEN", "SERIAL", "PEER"]
    assert line.split()[:4] == ["till-2", "berlin", "node", "active"]
    (shown,) = json.loads(meshsat("fleet", "members", "--json", "--data-dir", node.data_dir).out)
    assert shown["peer"] == MEMBER.peer
    assert shown["serial"] == "1f"


def test_revoke_asks_first(meshsat: Meshsat, node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    for yes, code in (("n\n", 1), ("", 1), ("y\n", 0)):
        monkeypatch.setattr("sys.stdin", io.StringIO(yes))
        ended = meshsat("fleet", "revoke", "till-2", "--data-dir", node.data_dir)
        assert ended.code == code
    assert node.revoked == [("till-2", None, "", False)]


def test_revoke_without_asking(meshsat: Meshsat, node: FakeNode) -> None:
    ended = meshsat(
        "fleet",
        "revoke",
        "till-2",
        "--reason",
        "stolen",
        "--with-issued",
        "--yes",
        "--data-dir",
        node.data_dir,
    )
    assert ended.code == 0
    assert ended.out.startswith("till-2 revoked on 2027-01-15")
    meshsat("fleet", "revoke", "--site", "berlin", "-y", "--data-dir", node.data_dir)
    assert node.revoked == [("till-2", None, "stolen", True), (None, "berlin", "", False)]


def test_revoke_whom(meshsat: Meshsat, node: FakeNode) -> None:
    for arguments in ((), ("till-2", "--site", "berlin")):
        ended = meshsat("fleet", "revoke", *arguments, "--yes", "--data-dir", node.data_dir)
        assert ended.code == 2
    assert node.revoked == []


def test_rotate(meshsat: Meshsat, node: FakeNode) -> None:
    ended = meshsat("fleet", "rotate", "--data-dir", node.data_dir)
    assert (ended.code, ended.out) == (0, "peer  12D3KooWnext\n")
