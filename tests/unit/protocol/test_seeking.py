"""At a large site: who holds what I want is asked of a hub, and dialled."""

from meshsat.protocol import effects, events, wire
from meshsat.protocol.seeking import HOLDERS_TOLD, WANTERS_TOLD
from tests.brain import ADDRESS, Blob, Brain, only, peer, requested, sent

NAMES = [f"n{number}" for number in range(60)]


def large() -> Brain:
    """A node that has heard of sixty others."""
    brain = Brain()
    for other in NAMES:
        brain.feed(events.PeerSighted(peer(other), (), (f"{other}:1",)))
    brain.tick()
    assert brain.machine._state.view.large
    return brain


def hubs_of(brain: Brain) -> list[str]:
    return [name for name in NAMES if peer(name) in brain.machine._state.view.hubs]


def test_what_nobody_near_has_is_asked_of_a_hub_and_whom_it_names_is_dialled() -> None:
    brain, blob = large(), Blob()
    hubs = hubs_of(brain)
    brain.meet(*hubs)
    brain.pull(blob)
    done = brain.wait(1.0, hearing=hubs)
    (asked,) = [name for name in hubs if sent(done, wire.Find, name)]
    assert sent(done, wire.Find, asked) == [wire.Find(blob.digest, blob.size)]
    stranger = "somebody"
    done = brain.hear(
        asked,
        wire.Peers(
            blob.digest, ((peer(stranger), (), ("s:1",)), (peer("me"), (), ("m:1",)), ("no id", (), ()))
        ),
    )
    dials = only(done + brain.wait(3.0, hearing=hubs), effects.Dial)
    assert effects.Dial(peer(stranger), (), ("s:1",)) in dials
    assert peer("me") not in [dial.peer for dial in dials]


def test_only_a_hub_is_believed_and_only_of_what_is_wanted() -> None:
    brain, blob = large(), Blob()
    hubs = hubs_of(brain)
    other = next(name for name in NAMES if name not in hubs)
    brain.meet(other, *hubs)
    word = wire.Peers(blob.digest, ((peer("somebody"), (), ("s:1",)),))
    brain.hear(hubs[0], word)
    brain.pull(blob)
    brain.hear(other, word)
    assert peer("somebody") not in brain.machine.membership.known


def test_who_has_mates_and_gets_on_asks_nobody() -> None:
    brain, blob = large(), Blob(chunks=100)
    hubs = hubs_of(brain)
    near = [name for name in NAMES if name not in hubs][:6]
    brain.meet(*hubs, *near)
    for name in near:
        brain.hear(name, blob.want())
    brain.pull(blob)
    done = []
    for index in range(60):
        done += brain.wait(0.5, hearing=[*hubs, *near])
        done += brain.feed(blob.stored(index))
    assert not sent(done, wire.Find)
    done = brain.wait(10, hearing=[*hubs, *near])  # and who does not get on asks
    assert 1 <= len(sent(done, wire.Find)) <= 4


def test_a_hub_names_holders_and_others_that_want_it() -> None:
    brain, blob = Brain(), Blob()
    names = NAMES[:30]
    brain.meet(*names)
    for name in names[:10]:
        brain.hear(name, blob.holds())
    for name in names[10:]:
        brain.hear(name, blob.want(sources=()))
    (told,) = sent(brain.hear("n10", wire.Find(blob.digest, blob.size)), wire.Peers, "n10")
    named = {one for one, _, _ in told.peers}
    assert len(named & {peer(name) for name in names[:10]}) == HOLDERS_TOLD
    assert len(named) == HOLDERS_TOLD + WANTERS_TOLD
    assert peer("n10") not in named
    assert told.peers[0][1] == ADDRESS
    assert sent(brain.hear("n0", wire.Find(blob.digest, 1)), wire.Peers, "n0") == [
        wire.Peers(blob.digest, ())
    ]


def test_what_nobody_holds_or_can_fetch_fails() -> None:
    brain, blob = large(), Blob()
    hubs = hubs_of(brain)
    brain.meet(*hubs)
    brain.pull(blob)
    (failed,) = only(brain.hear(hubs[0], wire.Peers(blob.digest, ())), effects.TellFailed)
    assert "no node of this site" in failed.message
    brain.hear(hubs[0], wire.Uplink(up=True))
    assert not only(brain.hear(hubs[0], wire.Peers(blob.digest, ())), effects.TellFailed)


# --- far peers: a hub that is no neighbour ---


def far_and_near(brain: Brain) -> tuple[str, list[str]]:
    view = brain.machine._state.view
    hub = next(name for name in hubs_of(brain) if peer(name) not in view.neighbours)
    near = [name for name in NAMES if peer(name) in view.neighbours - view.hubs]
    return hub, near


def test_a_far_hub_is_asked_only_when_nothing_comes_from_near_peers() -> None:
    brain, blob = large(), Blob(chunks=40)
    hub, near = far_and_near(brain)
    everybody = [hub, *near]
    brain.meet(*everybody)
    assert brain.machine._state.far(peer(hub))
    assert not brain.machine._state.far(peer(near[0]))
    brain.pull(blob)
    for name in near:
        brain.hear(name, blob.want())
    brain.hear(hub, blob.holds(), blob.entries(hub))
    done = brain.hear(near[0], blob.have(0)) + brain.wait(2.0, hearing=everybody)
    assert requested(done, near[0]) == [0]
    done = brain.feed(blob.stored(0, near[0]))
    assert not requested(done + brain.wait(1.5, hearing=everybody), hub)
    assert len(requested(brain.wait(1.0, hearing=everybody), hub)) == 1


def test_who_wants_a_blob_alone_asks_the_hub_at_once() -> None:
    brain, blob = large(), Blob(chunks=40)
    hub, near = far_and_near(brain)
    brain.meet(hub, *near)
    brain.pull(blob)
    assert len(requested(brain.hear(hub, blob.holds(), blob.entries(hub)), hub)) >= 2


def hub_brain() -> Brain:
    """A node that is a hub itself: of those here only it has an uplink."""
    brain = Brain(uplink=True)
    for other in NAMES:
        brain.feed(events.PeerSighted(peer(other), (), (f"{other}:1",)))
    brain.tick()
    assert peer("me") in brain.machine._state.view.hubs
    return brain


def test_a_hub_tells_far_peers_of_chunks_in_one_frame_a_second() -> None:
    brain, blob = hub_brain(), Blob(chunks=40)
    neighbours = brain.machine._state.view.neighbours
    near = [name for name in NAMES if peer(name) in neighbours]
    far = [name for name in NAMES if peer(name) not in neighbours][:20]
    brain.meet(*near, *far)
    for name in (*near, *far):
        brain.hear(name, blob.want())
    brain.pull(blob)
    done = []
    for index in range(20):
        done += brain.feed(blob.stored(index)) + brain.wait(0.1, hearing=[*near, *far])
    assert all(len(sent(done, wire.Have, name)) == 20 for name in near)
    assert all(1 <= len(sent(done, wire.Have, name)) <= 3 for name in far)
    assert sent(done, wire.Have, far[0])[-1].bits[0] == 0xFF
