"""Of limits the stricter holds, of policies the state's; all of a change or nothing of it."""

from pathlib import Path
from typing import Any, cast

import pytest

from meshsat.config import Config, DiskSection
from meshsat.errors import ConfigError, DeniedError
from meshsat.fleet.document import DesiredState, state_of
from meshsat.limits import WanLimits
from meshsat.means import LIMITS, POLICIES, Means
from meshsat.pull_through import PullThrough
from meshsat.reload import flat
from meshsat.signature_policy import SignaturePolicy
from meshsat.upkeep.task import Upkeep
from meshsat.uplink.client import Uplink
from tests.signing import make_key, public_pem

KEY = public_pem(make_key()).decode()


class Disk:
    def __init__(self) -> None:
        self.section = DiskSection()

    def apply(self, section: DiskSection) -> None:
        self.section = section


class Line:
    limits: WanLimits | None = None

    def limit(self, limits: WanLimits | None) -> None:
        self.limits = limits


class Place:
    def __init__(self, **config: Any) -> None:
        self.config = Config.load(**config)
        section = self.config.registry
        self.policy = PullThrough(section.pull_through, section.tag_ttl)
        self.signatures = SignaturePolicy()
        self.disk, self.line = Disk(), Line()
        self.means = Means(
            self.config,
            "berlin",
            self.policy,
            self.signatures,
            cast("Upkeep", self.disk),
            cast("Uplink", self.line),
        )

    def reload(self, **config: Any) -> None:
        commits = [live.prepare(Config.load(**config)) for live in self.means.live() if live.keys == POLICIES]
        for commit in commits:
            commit()

    def may_fetch(self, name: str = "up.example/pos") -> bool:
        try:
            registry, _, repository = name.partition("/")
            self.policy.may_fetch(registry, repository, "1")
        except DeniedError:
            return False
        return True


def state(**words: object) -> DesiredState:
    return state_of(words)


def test_limits_are_those_of_the_site_and_the_stricter_ones() -> None:
    place = Place(disk={"budget": 500})
    place.means.follow(state(limits=[{"sites": ["berlin"], "rate": 7, "disk": 900}, {"rate": 8}]))
    assert place.line.limits == WanLimits(7)
    assert place.disk.section.budget == 500
    place.means.follow(state(limits=[{"disk": 300}]))
    assert place.line.limits is None
    assert place.disk.section.budget == 300
    place.reload(disk={"budget": 200})
    assert place.disk.section.budget == 200
    place.reload()
    assert place.disk.section.budget == 300
    place.means.follow(state())
    assert place.disk.section.budget == 0


def test_a_policy_of_the_state_stands_in_place_of_ours_also_when_that_is_read_again() -> None:
    place = Place()
    assert place.may_fetch()
    place.means.follow(state(pull_through={"allow": False}))
    assert not place.may_fetch()
    place.reload(registry={"pull_through": {"allow": True}})
    assert not place.may_fetch()
    place.means.follow(state())
    assert place.may_fetch()
    place.reload(registry={"pull_through": {"allow": False}})
    assert not place.may_fetch()


def test_signatures_of_the_state(tmp_path: Path) -> None:
    place = Place()
    place.means.follow(state(signatures=[{"pattern": "up.example/**", "keys": [KEY]}]))
    assert not place.signatures.is_empty
    place.reload()
    assert not place.signatures.is_empty
    place.means.follow(state(signatures=[]))
    assert place.signatures.is_empty
    own = tmp_path / "cosign.pub"
    own.write_text(KEY)
    place.reload(signatures=[{"pattern": "**", "keys": [str(own)]}])
    assert place.signatures.is_empty, "the state says that none are needed"
    place.means.follow(state())
    assert not place.signatures.is_empty


def test_what_can_not_be_put_in_force_changes_nothing_and_is_told(tmp_path: Path) -> None:
    own = tmp_path / "cosign.pub"
    own.write_text(KEY)
    place = Place(signatures=[{"pattern": "**", "keys": [str(own)]}])
    place.means.follow(state(limits=[{"disk": 300}], signatures=[]))
    own.unlink()
    place.means.follow(state(limits=[{"disk": 100}]))
    assert place.means.problem is not None
    assert "cosign.pub" in place.means.problem
    assert place.disk.section.budget == 300
    with pytest.raises(ConfigError):
        place.reload(registry={"pull_through": {"rules": [{"pattern": "x"}]}})
    own.write_text(KEY)
    place.means.follow(state(limits=[{"disk": 100}]))
    assert place.means.problem is None
    assert place.disk.section.budget == 100


def test_every_setting_that_changes_live_is_one() -> None:
    names = dict(flat(Config()))
    place = Place()
    told = [key for live in place.means.live() for key in live.keys]
    assert told == [*POLICIES, *LIMITS]
    for live in place.means.live():
        for key in live.keys:
            assert any(live.covers(name) and name.startswith(key) for name in names), key
