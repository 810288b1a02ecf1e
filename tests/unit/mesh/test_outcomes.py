import structlog

from meshsat.audit.event import NODE, Actor
from meshsat.mesh.outcomes import Outcome, log_outcome, told_to
from tests.recorded import Recorded


def test_who_did_what_is_recorded() -> None:
    audit = Recorded()
    tell = told_to(audit)
    tell(Outcome("enrol", done=False, peer="12D3", by="12D4", reason="used up"))
    tell(Outcome("renew", done=True, peer="", name="till", site="hq", roles=frozenset({"node"})))
    tell(Outcome("revoke", done=True, peer="12D3", site="hq", by="12D5", reason="stolen"))
    tell(Outcome("revoke", done=True, peer="", site="hq", by="12D5"))
    assert [(one.event, one.actor, one.object, one.outcome) for one in audit.entries] == [
        ("node.register", Actor("peer", "12D3"), "enrolment", "failure"),
        ("pass.renew", NODE, "till at hq as node", "success"),
        ("pass.revoke", Actor("peer", "12D5"), "12D3", "success"),
        ("pass.revoke", Actor("peer", "12D5"), "site hq", "success"),
    ]


def test_each_outcome_is_one_line_without_empty_fields() -> None:
    with structlog.testing.capture_logs() as logs:
        log_outcome(Outcome("enrol", done=True, peer="12D3", name="till", site="hq", by="12D4"))
        log_outcome(Outcome("renew", done=False, peer="12D3", reason="used up"))
        log_outcome(Outcome("revoke", done=True, peer="", site="hq"))
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("node enrolled", "info"),
        ("enrolment denied", "warning"),
        ("revoked", "info"),
    ]
    assert logs[0]["by"] == "12D4"
    assert logs[1] == {
        "event": "enrolment denied",
        "log_level": "warning",
        "what": "renew",
        "peer": "12D3",
        "reason": "used up",
    }
    assert "peer" not in logs[2]
