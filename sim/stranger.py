"""A machine on the LAN that is no member, run in its namespace: `python -m sim.stranger VERB ...`.

listen FILE: writes every frame that reaches the host to FILE.

pester FLEET PEER ADDRESS...: announces itself as of the fleet, under a name of its own and as PEER, a member;
knocks at both ports of every address, with nothing, with noise, with TLS; takes the calls of those who
believe it, and says nothing. Prints as JSON what it was told.
"""

import contextlib
import json
import socket
import ssl
import sys
import threading
import time
from pathlib import Path

import trio

from meshsat.mesh.discovery import Announcement, MdnsDiscovery
from meshsat.trust.keys import NodeKey, PeerId

CONTROL, BULK = 4701, 4702
ROUND_SECONDS = 0.5
PATIENCE = 1.0
ALL_FRAMES = 3
"""ETH_P_ALL (linux/if_ether.h)."""


def listen(file: Path) -> None:
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_FRAMES)) as ears,
        file.open("wb") as kept,
    ):
        print("up", flush=True)
        while True:
            kept.write(ears.recv(1 << 18) + b"\n")
            kept.flush()


class Pest:
    def __init__(self, members: list[str]) -> None:
        self.members = members
        self.told: dict[str, int] = {}
        """Bytes of answers, by what was tried."""
        self.calls = 0
        """Connections that members made to us."""

    def knock(self, address: str, port: int) -> None:
        for what, said in (
            ("silence", b""),
            ("http", b"GET /v2/_catalog HTTP/1.1\r\nHost: x\r\n\r\n"),
            ("noise", bytes(64)),
        ):
            with contextlib.suppress(OSError), socket.create_connection((address, port), PATIENCE) as door:
                door.settimeout(PATIENCE)
                door.sendall(said)
                self.hear(f"{what} {port}", door)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["/meshsat/swap/1", "http/1.1"])
        with (
            contextlib.suppress(OSError),
            socket.create_connection((address, port), PATIENCE) as door,
            context.wrap_socket(door) as secret,
        ):
            secret.settimeout(PATIENCE)
            secret.sendall(b"GET /v2/_catalog HTTP/1.1\r\nHost: x\r\n\r\n")
            self.hear(f"tls {port}", secret)

    def hear(self, what: str, door: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := door.recv(65536):
                self.told[what] = self.told.get(what, 0) + len(data)

    def take_calls(self, port: int) -> None:
        with socket.create_server(("", port)) as server:
            kept = []
            while True:
                kept.append(server.accept())
                self.calls += 1

    def go_round(self) -> None:
        while True:
            knocks = [
                threading.Thread(target=self.knock, args=(address, port), daemon=True)
                for address in self.members
                for port in (CONTROL, BULK)
            ]
            for each in knocks:
                each.start()
            for each in knocks:
                each.join()
            print(json.dumps({"told": self.told, "calls": self.calls}), flush=True)
            time.sleep(ROUND_SECONDS)


async def announce(fleet: str, peers: list[PeerId]) -> None:
    async with trio.open_nursery() as nursery:
        for peer in peers:
            claim = Announcement(fleet, peer, "box", CONTROL, BULK)
            discovery = MdnsDiscovery("0.0.0.0", None, claim)  # noqa: S104 - wherever it can be heard
            nursery.start_soon(discovery.run, lambda _: None)


def main() -> None:
    verb, *arguments = sys.argv[1:]
    if verb == "listen":
        listen(Path(arguments[0]))
    fleet, peer, *members = arguments
    pest = Pest(members)
    for port in (CONTROL, BULK):
        threading.Thread(target=pest.take_calls, args=(port,), daemon=True).start()
    threading.Thread(target=pest.go_round, daemon=True).start()
    trio.run(announce, fleet, [NodeKey.generate().peer_id, PeerId(peer)])


if __name__ == "__main__":
    main()
