"""`python -m sim.benchmark.torrent_session`: a worker that is one libtorrent session on one host.

The task: `torrent` (the .torrent's path), `directory` (where the payload is or comes), `seed` (it is there),
`listen` (ADDRESS:PORT), `peers` (addresses and ports to dial, up already; it is ready when it has met them).

Laws, a fair opponent's (what was tried and made it slower is left out): no rate limit, no choking, TCP
without encryption, no DHT, tracker or local discovery (peers are named), connections made before the start.
Until then a session wants nothing, after it all.
"""

import importlib
import time
from collections.abc import Callable
from typing import Any

from sim.benchmark.worker import work

MEET_SECONDS = 30.0
FLUSH_SECONDS = 60.0
POLL_SECONDS = 0.01
WANTED = 4
"""The priority of a file that is wanted."""
SETTINGS: dict[str, Any] = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "in_enc_policy": 2,
    "out_enc_policy": 2,  # pe_disabled: plain
    "unchoke_slots_limit": -1,
    "request_queue_time": 1,  # with 3 s of requests waiting at the slowest peer, the end drags on
    "max_out_request_queue": 64,
    "connections_limit": 1000,
    "connection_speed": 500,
    "smooth_connects": False,
    "close_redundant_connections": False,  # before the start nobody wants anything of anybody
    "alert_mask": 8,  # storage
}


def prepare(task: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    lt = importlib.import_module("libtorrent")  # of the benchmark alone: requirements/bench.in
    session = lt.session({**SETTINGS, "listen_interfaces": task["listen"]})
    wanted = lt.add_torrent_params()
    wanted.ti = lt.torrent_info(task["torrent"])
    wanted.save_path = task["directory"]
    flags = lt.torrent_flags
    wanted.flags = flags.disable_dht | flags.disable_lsd | flags.disable_pex | flags.update_subscribe
    wanted.flags |= flags.seed_mode if task["seed"] else flags.default_dont_download
    torrent = session.add_torrent(wanted)
    for address, port in task["peers"]:
        torrent.connect_peer((address, port))
    _meet(torrent, len(task["peers"]))
    if task["seed"]:
        return lambda: {"session": id(session)}
    return lambda: _download(session, torrent, wanted.ti.num_pieces())


def _meet(torrent: Any, connections: int) -> None:
    """Raises `TimeoutError`."""
    deadline = time.monotonic() + MEET_SECONDS
    while torrent.status().num_peers < connections:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{torrent.status().num_peers} of {connections} peers met")
        time.sleep(POLL_SECONDS)


def _download(session: Any, torrent: Any, count: int) -> dict[str, Any]:
    torrent.prioritize_files([WANTED])
    while torrent.status().num_pieces < count:
        time.sleep(POLL_SECONDS)
    finished = time.monotonic()
    status = torrent.status()
    _flush(session, torrent)
    return {"finished": finished, "duplicate": status.total_redundant_bytes + status.total_failed_bytes}


def _flush(session: Any, torrent: Any) -> None:
    """Return when the file is whole for others to look at. Raises `TimeoutError`."""
    torrent.flush_cache()
    deadline = time.monotonic() + FLUSH_SECONDS
    while not any(alert.what() == "cache_flushed" for alert in session.pop_alerts()):
        if time.monotonic() > deadline:
            raise TimeoutError("the payload does not get to the disk")
        session.wait_for_alert(100)


if __name__ == "__main__":
    work(prepare)
