import subprocess
from pathlib import Path
from typing import Any

import pytest

from meshsat.errors import UnavailableError
from meshsat.runtime import waking
from meshsat.runtime.catalog import RELOAD, RESTART, Wake
from meshsat.runtime.waking import command, wake_up

K3S = Wake(RESTART, ("k3s", "k3s-agent"), ("k3s-server",))
CRIO = Wake(RELOAD, ("crio",), ("crio",))


class Systemd:
    """A systemctl: units that are active, and what it was told."""

    def __init__(self, *active: str, code: int = 0) -> None:
        self.active, self.code = active, code
        self.told: list[tuple[str, ...]] = []

    def run(self, arguments: tuple[str, ...], **_: Any) -> subprocess.CompletedProcess[bytes]:
        self.told.append(arguments)
        code = self.code if arguments[1] != "is-active" else 0 if arguments[-1] in self.active else 3
        return subprocess.CompletedProcess(arguments, code)


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.setattr(waking, "SYSTEMD", tmp_path)
    return monkeypatch


def test_the_unit_that_is_active_is_meant(booted: pytest.MonkeyPatch) -> None:
    systemd = Systemd("k3s-agent")
    booted.setattr(subprocess, "run", systemd.run)
    assert wake_up(K3S) == "k3s-agent"
    assert systemd.told[-1] == ("systemctl", "restart", "--no-ask-password", "k3s-agent")


def test_what_does_not_run_is_left_so(booted: pytest.MonkeyPatch) -> None:
    systemd = Systemd()
    booted.setattr(subprocess, "run", systemd.run)
    assert wake_up(K3S) is None
    assert {told[1] for told in systemd.told} == {"is-active"}


def test_failures_say_where_to_look(booted: pytest.MonkeyPatch) -> None:
    booted.setattr(subprocess, "run", Systemd("crio", code=1).run)
    with pytest.raises(UnavailableError, match="journalctl -u crio"):
        wake_up(CRIO)

    def slow(arguments: tuple[str, ...], **options: Any) -> None:
        raise subprocess.TimeoutExpired(arguments, options["timeout"])

    booted.setattr(subprocess, "run", slow)
    with pytest.raises(UnavailableError, match="longer than"):
        wake_up(CRIO)

    def missing(*_: Any, **__: Any) -> None:
        raise FileNotFoundError

    booted.setattr(subprocess, "run", missing)
    with pytest.raises(UnavailableError, match="not on PATH"):
        wake_up(CRIO)


def test_without_systemd_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(waking, "SYSTEMD", tmp_path / "none")
    with pytest.raises(UnavailableError, match="send crio a SIGHUP"):
        wake_up(CRIO)
    with pytest.raises(UnavailableError, match="restart k3s"):
        wake_up(K3S)
    assert command(CRIO) == "systemctl reload crio"
