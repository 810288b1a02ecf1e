import tomllib
from pathlib import Path

import pytest
import trio

from meshsat.config import Config
from meshsat.demo.place import Place
from meshsat.demo.site import DemoNode, Site, as_multiaddr

PEER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
STATUS = {"peer": PEER, "control_addresses": ["127.0.0.1:4001"]}


def test_an_address_becomes_a_multiaddr() -> None:
    assert as_multiaddr(STATUS) == f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}"


async def test_the_settings_are_valid_and_only_the_first_node_has_an_uplink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MESHSAT_DATA_DIR", raising=False)
    place = Place(tmp_path / 'odd "näme"')
    place.directory.mkdir()
    async with trio.open_nursery() as nursery:
        site = Site(place, nursery, "127.0.0.1:5999", uplink_rate=2_500_000)
        configs = []
        for number in (1, 2):
            data_dir = place.directory / f"node-{number}"
            text = site._settings(f"node-{number}", data_dir)
            assert tomllib.loads(text)["data_dir"] == str(data_dir)
            file = tmp_path / f"{number}.toml"
            file.write_text(text)
            configs.append(Config.load(file))
            child = place.start(f"node-{number}", ["/bin/true"])
            site.nodes.append(DemoNode(f"node-{number}", data_dir, child, STATUS))
        await place.end()
    first, second = configs
    assert (first.uplink.enabled, first.uplink.rate, first.mesh.peers) == (True, 2_500_000, ())
    assert (second.uplink.enabled, second.mesh.peers) == (False, (as_multiaddr(STATUS),))
    assert first.registry.upstream == second.registry.upstream == "127.0.0.1:5999"
    assert first.uplink.registries[0].plain_http
