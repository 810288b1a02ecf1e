"""Peers by configuration: which addresses are some, and that the mesh is reminded of them."""

import pytest
import trio
import trio.testing

from meshsat.errors import ConfigError
from meshsat.mesh.discovery import Sighting
from meshsat.mesh.static_peers import AGAIN, StaticPeers, parse_multiaddr
from tests.brain import peer

PEER = peer("static")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (f"/ip4/10.0.0.2/tcp/4701/p2p/{PEER}", "10.0.0.2:4701"),
        (f"/ip6/fd00::2/tcp/65535/p2p/{PEER}", "[fd00::2]:65535"),
        (f"/dns/node-2.site/tcp/1/p2p/{PEER}", "node-2.site:1"),
        (f"/dns4/node/tcp/4701/p2p/{PEER}", "node:4701"),
        (f"/dns6/node/tcp/4701/p2p/{PEER}", "node:4701"),
    ],
)
def test_an_address_is_read(text: str, address: str) -> None:
    assert parse_multiaddr(text) == (PEER, address)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.2:4701",
        "/ip4/10.0.0.2/tcp/4701",
        f"/ip4/10.0.0.2/udp/4701/p2p/{PEER}",
        f"/ip4//tcp/4701/p2p/{PEER}",
        f"/ip4/10.0.0.2/tcp/0/p2p/{PEER}",
        f"/ip4/10.0.0.2/tcp/65536/p2p/{PEER}",
        f"/ip4/10.0.0.2/tcp/\N{SUPERSCRIPT TWO}/p2p/{PEER}",
        f"/ip4/10.0.0.2/tcp/x/p2p/{PEER}",
        f"/unix/10.0.0.2/tcp/4701/p2p/{PEER}",
        f"x/ip4/10.0.0.2/tcp/4701/p2p/{PEER}",
        f"/ip4/10.0.0.2/tcp/4701/p2p/{PEER}/more",
        "/ip4/10.0.0.2/tcp/4701/p2p/12D3KooWnone",
        "/ip4/10.0.0.2/tcp/4701/p2p/",
    ],
)
def test_what_is_none_is_told_with_the_setting_and_the_text(text: str) -> None:
    with pytest.raises(ConfigError, match=r"mesh\.peers") as told:
        StaticPeers("fleet", [text])
    assert text in str(told.value)


async def test_the_mesh_is_told_at_once_and_reminded(autojump_clock: trio.testing.MockClock) -> None:
    told: list[tuple[float, Sighting]] = []
    peers = StaticPeers("acme", [f"/ip4/10.0.0.2/tcp/4701/p2p/{PEER}"])
    async with trio.open_nursery() as nursery:
        await nursery.start(peers.run, lambda sighting: told.append((trio.current_time(), sighting)))
        await trio.sleep(AGAIN + 1)
        nursery.cancel_scope.cancel()
    sighting = Sighting("acme", PEER, "", ("10.0.0.2:4701",), ())
    assert told == [(0.0, sighting), (AGAIN, sighting)]
