import pytest

from meshsat.runtime import probe
from meshsat.runtime.probe import why_not
from tests.upstream import Fault, Upstream, Users


def test_a_registry_answers_also_one_that_wants_a_password() -> None:
    with Upstream() as registry:
        assert why_not(f"http://{registry.address}") is None
    with Upstream(users=Users("basic")) as registry:
        assert why_not(f"http://{registry.address}") is None


def test_what_else_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TIMEOUT", 0.05)
    with Upstream() as other:
        other.add_fault(Fault(status=503))
        other.add_fault(Fault(stall_after=-1))
        assert "503" in (why_not(f"http://{other.address}") or "")
        assert "within" in (why_not(f"http://{other.address}") or "")
        address = other.address
        assert "does not answer" in (why_not(f"https://{address}") or "")
    assert "does not answer" in (why_not(f"http://{address}") or "")
