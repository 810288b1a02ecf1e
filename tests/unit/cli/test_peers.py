import json

from meshsat.status import PeerStatus
from tests.unit.cli.conftest import PEER, FakeNode, Meshsat

CONNECTED = PeerStatus(
    peer=PEER,
    name="coach-8",
    site="train-1",
    state="connected",
    plane="tls",
    addresses=("10.0.0.8:4701", "10.0.0.8:4702"),
    uplink=True,
    bytes_in=1_000_000,
    bytes_out=0,
    rtt=0.0012,
)
KNOWN = PeerStatus(
    peer=PEER,
    name="coach-9",
    site="train-1",
    state="known",
    plane=None,
    addresses=(),
    uplink=False,
    bytes_in=0,
    bytes_out=0,
    rtt=None,
)


def test_a_line_a_peer(meshsat: Meshsat, node: FakeNode) -> None:
    node.peer_list = [CONNECTED, KNOWN]
    heading, first, second = meshsat("peers", "--data-dir", node.data_dir).out.splitlines()
    assert heading.split()[0] == "NAME"
    for word in ("coach-8", "connected", "tls", "yes", "1.0 MB", "1.2 ms", "10.0.0.8:4701", PEER):
        assert word in first
    for word in ("coach-9", "known", "no"):
        assert word in second


def test_json_is_an_array(meshsat: Meshsat, node: FakeNode) -> None:
    node.peer_list = [CONNECTED]
    told = json.loads(meshsat("peers", "--data-dir", node.data_dir, "--json").out)
    assert [peer["name"] for peer in told] == ["coach-8"]


def test_without_peers_it_says_how_they_are_found(meshsat: Meshsat, node: FakeNode) -> None:
    assert "mDNS" in meshsat("peers", "--data-dir", node.data_dir).out
    assert json.loads(meshsat("peers", "--data-dir", node.data_dir, "--json").out) == []
