"""Sockets: TCP connections as the budget needs them: bounded before they are opened, counted by the kernel.

Law: what is counted are bytes of IP packets that reached this machine, read or not: payload in order, and
the headers of every segment (`HEADERS`). Not seen: payload that came twice, the line's own framing, DNS.
"""

import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import Any

import trio

HEADERS = {socket.AF_INET: 52, socket.AF_INET6: 72}
"""Bytes of a segment's IP and TCP headers, with TCP's timestamps."""
STAGGER = 0.25
"""Seconds that one address gets before the next is tried beside it (RFC 8305)."""
ADDRESSES = 6
"""Of one name, that are tried."""
_INFO = struct.Struct("=60x I 4x I 56x Q II")
"""Linux's `struct tcp_info`, as far as we read it: pmtu, rtt, bytes received, segments out, in."""
_SENT = struct.Struct("=Q")
_SENT_AT = 200


class TcpWire:
    """`budget.Wire` over a socket. What the kernel does not tell is estimated from what was read and sent."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._socket = sock
        self._header = HEADERS.get(sock.family, 72)
        self._last = (0, 0, 0, 0.0)

    def count(self) -> tuple[int, int]:
        received, segments, _, _ = self._look()
        return received, received + segments * self._header

    def sent(self) -> int:
        """Bytes of all packets that we sent, acknowledgements as well."""
        return self._look()[2]

    def round_trip(self) -> float:
        return self._last[3]

    def allow(self, window: int) -> None:
        with suppress(OSError):  # closed meanwhile
            _bound(self._socket, window)

    def _look(self) -> tuple[int, int, int, float]:
        with suppress(OSError, struct.error):
            raw = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            _, rtt, received, out, came = _INFO.unpack_from(raw)
            (sent,) = _SENT.unpack_from(raw, _SENT_AT)
            self._last = received, came, sent + out * self._header, rtt / 1e6
        return self._last


def _bound(sock: trio.socket.SocketType, window: int | None) -> None:
    """Bytes of payload that the kernel can hold at most, read or not. It takes twice what it is told
    (socket(7)), for what lies around the payload. TCP_WINDOW_CLAMP is no such bound: it leaves out what is
    held already."""
    if window is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window // 2)


def _in_turn(targets: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """The families by turns, the first one's first address first: where one does not work at all, the other
    is not far (RFC 8305, 4)."""
    families: dict[int, list[tuple[int, Any]]] = {}
    for target in targets:
        families.setdefault(target[0], []).append(target)
    return [one for row in zip_longest(*families.values()) for one in row if one is not None]


async def connect(host: str, port: int, window: int | None) -> trio.SocketStream:
    """The first of a name's addresses that answers, each tried a moment after the one before. `window`:
    bytes that the other side may send ahead of what is read; None: as the kernel likes. Raises `OSError`,
    caused by the group of what each address said."""
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    targets = _in_turn([(family, address) for family, _, _, _, address in found])[:ADDRESSES]
    faults: list[OSError] = []
    winner: list[trio.socket.SocketType] = []

    async def attempt(family: int, address: Any, failed: trio.Event) -> None:
        sock = trio.socket.socket(family, socket.SOCK_STREAM)
        try:
            _bound(sock, window)  # before the first packet: what was offered is not taken back
            await sock.connect(address)
        except OSError as fault:
            faults.append(fault)
            sock.close()
            failed.set()
        except BaseException:
            sock.close()
            raise
        else:
            if winner:
                sock.close()
            else:
                winner.append(sock)
                nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for family, address in targets:
                failed = trio.Event()
                nursery.start_soon(attempt, family, address, failed)
                with trio.move_on_after(STAGGER):
                    await failed.wait()
    except BaseException:
        for sock in winner:
            sock.close()
        raise
    if winner:
        return trio.SocketStream(winner[0])
    raise OSError(f"no address of {host} answers") from ExceptionGroup("each of its addresses", faults)
