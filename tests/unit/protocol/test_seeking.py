"""At a large site: who holds what I want is asked of a hub, and dialled."""

from meshsat.protocol import effects, events, wire
from meshsat.protocol.seeking import HOLDERS_TOLD, WANTERS_TOLD
from tests.brain import ADDRESS, Blob, Brain, only, peer, sent

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
