import pytest

from meshsat.audit.event import NODE, NoAudit, recorded
from meshsat.errors import DeniedError
from tests.recorded import Recorded


def test_what_is_done_is_recorded_with_how_it_went() -> None:
    audit = Recorded()
    with recorded(audit, "tag.update", NODE, "a") as told:
        told.object, told.reason = "b", "why"
    with pytest.raises(DeniedError), recorded(audit, "tag.update", NODE, "c"):
        raise DeniedError("no")
    assert [(entry.object, entry.outcome, entry.reason) for entry in audit.entries] == [
        ("b", "success", "why"),
        ("c", "failure", "no"),
    ]


def test_what_is_no_fault_of_ours_is_not_told_as_done() -> None:
    audit = Recorded()
    with pytest.raises(ZeroDivisionError), recorded(audit, "tag.update", NODE, "a"):
        raise ZeroDivisionError
    assert audit.entries == []


def test_none_takes_everything() -> None:
    NoAudit().record("x", actor=NODE, object="", outcome="success")
