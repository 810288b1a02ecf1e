"""Makes a runtime's daemon read its files again, by systemd. Only when asked for: pods and builds notice."""

import subprocess
from pathlib import Path

from meshsat.errors import UnavailableError
from meshsat.runtime.catalog import RELOAD, Wake

SYSTEMD = Path("/run/systemd/system")
"""There where systemd is the init."""
TIMEOUT = 120.0
"""Seconds. k3s says that it is up only when its API answers."""
ASK_TIMEOUT = 10.0


def command(wake: Wake) -> str:
    """What a person types to do it."""
    return f"systemctl {wake.action} {wake.units[0]}"


def wake_up(wake: Wake) -> str | None:
    """Do it; returns the unit, or None where the daemon does not run, so that there is nothing to do.

    Raises `UnavailableError`.
    """
    if not SYSTEMD.is_dir():
        how = f"send {wake.processes[0]} a SIGHUP" if wake.action == RELOAD else f"restart {wake.units[0]}"
        raise UnavailableError(f"systemd does not run here: {how} by your own means")
    unit = next(
        (unit for unit in wake.units if _systemctl("is-active", "--quiet", unit, ASK_TIMEOUT) == 0), None
    )
    if unit is not None and (code := _systemctl(wake.action, "--no-ask-password", unit, TIMEOUT)) != 0:
        raise UnavailableError(f"systemctl {wake.action} {unit} ended with {code}; see: journalctl -u {unit}")
    return unit


def _systemctl(verb: str, option: str, unit: str, timeout: float) -> int:
    try:
        done = subprocess.run(  # noqa: S603 - fixed words and units of the catalog
            ("systemctl", verb, option, unit),  # noqa: S607 - wherever this system has it
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        raise UnavailableError("systemctl is not on PATH") from None
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"systemctl {verb} {unit} takes longer than {timeout:.0f} s") from None
    return done.returncode
