"""What real nodes recorded, run again: the same machine does the same, and a departure is found where it is."""

import json
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from meshsat.config import Config
from meshsat.node import Listening, run_node
from meshsat.protocol import events
from meshsat.protocol.effects import Send
from meshsat.protocol.machine import Settings
from meshsat.protocol.recording import RecordedMachine
from meshsat.protocol.trace import Ended, Entry, Happened, Started, TraceError, decode_untrusted, encode
from meshsat.protocol.wire import Compare, Hello, News
from sim.simulator.replay import Replay, Step, in_words
from tests.brain import Blob, key, peer
from tests.fleet import Fleet
from tests.upstream import Upstream

FLEET = Fleet()
LIMIT = 30.0


def config(directory: Path, upstream: str = "", *peers: str) -> Config:
    plain = [{"host": upstream, "plain_http": True}] if upstream else []
    return Config.load(
        data_dir=directory,
        uplink={"enabled": bool(upstream), "registries": plain},
        mesh={"listen": "127.0.0.1", "control_port": 0, "bulk_port": 0, "mdns": False, "peers": peers},
        registry={"port": 0, "upstream": upstream or None},
        api={"port": 0},
        record={"file": directory / "trace"},
    )


async def record_two_nodes(directory: Path) -> tuple[Path, Path]:
    """An uplinked and a dark node; the dark one's client pulls an image. Their traces."""
    members = {FLEET.member(name, directory=directory / name).key.peer_id: name for name in ("a", "b")}
    dark, up = sorted(members)  # the smaller peer id dials at once
    dark_dir, up_dir = directory / members[dark], directory / members[up]
    with Upstream() as upstream, trio.fail_after(LIMIT):
        image = upstream.add_image("library/pos", "42", layers=[b"layer" * 300_000, b"other" * 1000])
        async with trio.open_nursery() as nursery:
            there: Listening = await nursery.start(partial(run_node, config(up_dir, upstream.address)))
            host, _, port = there.control[0].rpartition(":")
            address = f"/ip4/{host}/tcp/{port}/p2p/{up}"
            here: Listening = await nursery.start(partial(run_node, config(dark_dir, "", address)))
            async with httpx.AsyncClient(base_url=f"http://{here.registry}/v2/{upstream.address}") as http:
                while (got := await http.get("/library/pos/manifests/42")).status_code != 200:
                    await trio.sleep(0.1)
                manifest = json.loads(got.content)
                for digest in (one["digest"] for one in (manifest["config"], *manifest["layers"])):
                    blob = await http.get(f"/library/pos/blobs/{digest}")
                    assert blob.content == image.contents[digest]
            nursery.cancel_scope.cancel()
    return up_dir / "trace", dark_dir / "trace"


@pytest.mark.slow
async def test_what_two_real_nodes_recorded_replays(tmp_path: Path) -> None:
    for trace in await record_two_nodes(tmp_path):
        data = trace.read_bytes()
        replay = Replay()
        steps = list(replay.steps(data))
        assert replay.departed is None, f"{in_words(replay.departed.event)} {replay.departed.effects}"
        assert replay.ended == "the node was stopped"
        assert len(steps) == replay.events.total() > 20
        assert replay.events["BlobPublished"] == 4  # manifest, config, two layers
        assert replay.frames_in["Hello"] == replay.frames_out["Hello"] >= 1
        assert b"PRIVATE KEY" not in data
    assert replay.effects["OpenTransfer"] >= 2
    assert replay.effects["FetchUplink"] == 0
    assert trace.stat().st_mode & 0o777 == 0o600


# --- traces made by hand ---


def recorded(*happened: events.Event) -> list[Entry]:
    entries: list[Entry] = []

    def tell(entry: Entry) -> bool:
        entries.append(entry)
        return True

    machine = RecordedMachine(
        Settings(peer("me"), "me", uplink=False),
        key("me").sign,
        random.Random(b"x"),
        tell,
        seed=b"x",
        version="1",
    )
    machine.addresses = (("x:1",), ("y:2",))
    for at, event in enumerate(happened, start=5):
        machine.handle(event, float(at))
    return entries


def replayed(entries: list[Entry]) -> tuple[Replay, list[Step]]:
    replay = Replay()
    return replay, list(replay.steps(b"".join(map(encode, entries))))


def story() -> Iterator[events.Event]:
    blob = Blob()
    yield events.SessionOpened(peer("a"), dialled=True)
    yield blob.wanted()
    yield events.TransferOpened(blob.digest)
    yield events.TimerExpired()
    yield blob.stored(0)


def test_a_trace_replays_without_the_key() -> None:
    hello = events.FrameReceived(peer("a"), Hello("a", False, ("a:1",), ("a:2",)))
    replay, steps = replayed(recorded(*story(), hello))
    assert replay.departed is None
    sent = (effect.frame for step in steps for effect in step.effects if isinstance(effect, Send))
    assert {News, Compare} <= {type(frame) for frame in sent}, "its signed word, and a sum of it"
    assert [step.at for step in steps] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert "has no end" in replay.ended


def test_the_first_departure_is_told() -> None:
    entries = recorded(*story())
    third = entries[4]
    assert isinstance(third, Happened)
    entries[4] = Happened(third.at, events.BlobUnwanted(Blob().digest, events.Priority.PULL), third.effects)
    replay, steps = replayed(entries)
    assert replay.departed is steps[2]


def test_a_machine_that_fails_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = recorded(*story())
    monkeypatch.setattr("meshsat.protocol.exchange.Exchange.tick", lambda *_: 1 / 0)
    replay, steps = replayed(entries)
    assert (steps[-1].number, steps[-1].fault) == (3, "ZeroDivisionError: division by zero")
    assert replay.departed is steps[-1], "the recorded one did not fail"
    assert "ZeroDivisionError" in replay.ended
    last = entries[5]
    assert isinstance(last, Happened)
    replay, _ = replayed([*entries[:5], Happened(last.at, last.event, b""), Ended("x")])
    assert replay.departed is None, "the recorded one failed as well"


def test_garbage_is_refused() -> None:
    with pytest.raises(TraceError):
        list(Replay().steps(b"garbage"))


def test_everything_is_shown_on_a_line() -> None:
    blob = Blob()
    shown = in_words(events.FrameReceived(peer("a"), blob.entries("b")))
    assert shown.startswith("FrameReceived(peer=12D3..")
    assert f"Entries(blob=sha256:{blob.digest.hex[:12]}.., author=12D3.." in shown
    assert len(shown) < 500
    assert in_words(events.TimerExpired()) == "TimerExpired()"


def test_the_version_and_name_are_told() -> None:
    replay, _ = replayed(recorded(*story()))
    started, *_ = decode_untrusted(b"".join(map(encode, recorded())))
    assert isinstance(started, Started)
    assert (replay.version, replay.name, replay.peer) == ("1", "me", peer("me"))
