"""zeroconf without RFC 6762's waits, which are made for LANs full of strangers."""

import pytest
from zeroconf import _core

from meshsat.mesh import discovery


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes and announcements follow each other in tens of milliseconds, as do looks."""
    monkeypatch.setattr(_core, "_PROBE_RANDOM_DELAY_INTERVAL", (1, 2))
    monkeypatch.setattr(_core, "_CHECK_TIME", 80)
    monkeypatch.setattr(_core, "_REGISTER_TIME", 20)
    monkeypatch.setattr(_core, "_UNREGISTER_TIME", 20)
    monkeypatch.setattr(discovery, "LOOK", 0.02)
