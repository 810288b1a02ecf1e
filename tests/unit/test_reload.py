"""A configuration that is read again: all of it is applied, or nothing."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from meshsat.config import Config
from meshsat.errors import ConfigError
from meshsat.reload import Live, Reloaded, Reloader

FIRST = "[uplink]\nrate = 1000\n[mesh]\nmax_peers = 8\n"


class Part:
    """What applies some of the settings."""

    def __init__(self, *keys: str, pick: Callable[[Config], Any]) -> None:
        self.live = Live(keys, self.prepare)
        self.pick = pick
        self.value: Any = None
        self.refuses = False

    def prepare(self, config: Config) -> Callable[[], None]:
        if self.refuses:
            raise ConfigError("this part can't do that")

        def commit() -> None:
            self.value = self.pick(config)

        return commit


class Place:
    def __init__(self, directory: Path) -> None:
        self.file = directory / "meshsat.toml"
        self.file.write_text(FIRST)
        self.flags: dict[str, Any] = {}
        self.rate = Part("uplink.rate", "uplink.quota", pick=lambda config: config.uplink.rate)
        self.level = Part("log.level", pick=lambda config: config.log.level)
        self.reloader = Reloader(self.load(), self.load, [self.rate.live, self.level.live])

    def load(self) -> Config:
        return Config.load(self.file, **self.flags)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_what_can_change_does_and_what_can_not_is_told(place: Place) -> None:
    place.file.write_text(
        '[uplink]\nrate = 2000\n[uplink.quota]\nday = 5\n[mesh]\nmax_peers = 9\n[log]\nlevel = "debug"\n'
    )
    done = await place.reloader.reload()
    assert done == Reloaded(("log.level", "uplink.quota.day", "uplink.rate"), ("mesh.max_peers",))
    assert (place.rate.value, place.level.value) == (2000, "debug")
    assert "mesh.max_peers" in (place.reloader.problem() or "")
    place.file.write_text(place.file.read_text().replace("max_peers = 9", "max_peers = 8"))
    assert await place.reloader.reload() == Reloaded((), ())
    assert place.reloader.problem() is None


async def test_only_parts_that_are_touched_are_asked(place: Place) -> None:
    place.level.refuses = True
    place.file.write_text(FIRST.replace("1000", "1500"))
    await place.reloader.reload()
    assert place.rate.value == 1500


@pytest.mark.parametrize(
    "text",
    [
        "[uplink\n",
        "[uplink]\nrate = -1\n",
        "[uplink]\nrate = 2000\nunheard_of = 1\n",
        '[uplink]\nrate = 2000\n[[uplink.windows]]\ncron = "nonsense"\nduration = 60\n',
        '[uplink]\nrate = 2000\n[uplink.quota]\ntimezone = "Nowhere"\n',
        None,
    ],
)
async def test_what_is_wrong_changes_nothing_and_is_told_until_it_is_right(
    place: Place, text: str | None
) -> None:
    if text is None:
        place.file.unlink()
    else:
        place.file.write_text(text)
    with pytest.raises(ConfigError):
        await place.reloader.reload()
    assert (place.rate.value, place.reloader.config.uplink.rate) == (None, 1000)
    assert "the one of before is in force" in (place.reloader.problem() or "")
    place.file.write_text(FIRST.replace("1000", "3000"))
    await place.reloader.reload()
    assert place.rate.value == 3000
    assert place.reloader.problem() is None


async def test_one_part_that_refuses_keeps_all_others_from_changing(place: Place) -> None:
    place.file.write_text('[uplink]\nrate = 2000\n[log]\nlevel = "debug"\n')
    for part in (place.rate, place.level):
        part.refuses = True
        with pytest.raises(ConfigError, match="this part can't do that"):
            await place.reloader.reload()
        assert (place.rate.value, place.level.value) == (None, None)
        part.refuses = False


async def test_flags_and_environment_of_the_start_still_win(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.flags = {"uplink": {"rate": 7}}
    monkeypatch.setenv("MESHSAT_LOG__LEVEL", "error")
    place.file.write_text('[uplink]\nrate = 2000\n[log]\nlevel = "debug"\n')
    await place.reloader.reload()
    assert (place.rate.value, place.level.value) == (7, "error")


async def test_a_signal_reloads_and_a_fault_does_not_end_it(place: Place) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.reloader.run)
        await trio.testing.wait_all_tasks_blocked()
        for text, rate in (("[uplink\n", None), (FIRST.replace("1000", "4000"), 4000)):
            place.file.write_text(text)
            os.kill(os.getpid(), signal.SIGHUP)
            with trio.fail_after(5):
                while (place.reloader.fault is None) is (rate is None) or place.rate.value != rate:
                    await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


def test_every_setting_that_is_live_exists() -> None:
    """Those of a node are tested with it; here, that a name covers what is in its section."""
    live = Live(("uplink.quota", "uplink.rate"), lambda _: lambda: None)
    assert live.covers("uplink.quota.day")
    assert live.covers("uplink.rate")
    assert not live.covers("uplink.rates")
    assert not live.covers("uplink")
