import pytest

from meshsat.runtime.apply import Change
from meshsat.runtime.diffs import diff, summary


def test_a_change_as_people_read_it() -> None:
    assert list(diff(Change("/etc/f", b"a\nb\n", b"a\nc\n"))) == [
        "--- a/etc/f", "+++ b/etc/f", "@@ -1,2 +1,2 @@", " a", "-b", "+c",
    ]  # fmt: skip
    assert list(diff(Change("/etc/f", None, b"a\n")))[:2] == ["--- /dev/null", "+++ b/etc/f"]
    assert list(diff(Change("/etc/f", b"\xff\n", None)))[:2] == ["--- a/etc/f", "+++ /dev/null"]
    signs = [summary(Change("/f", now, then)) for now, then in ((None, b""), (b"", None), (b"", b"x"))]
    assert signs == ["+ /f", "- /f", "~ /f"]


@pytest.mark.parametrize(
    "line",
    ['  password = "hunter2"', "password: hunter2 # x", '"auth": "hunter2",', "identitytoken='hunter2'",
     "  registry_token = hunter2", '"Authorization-Token" : "hunter2"'],
)  # fmt: skip
def test_secrets_nearby_are_not_shown(line: str) -> None:
    shown = "\n".join(diff(Change("/f", f"{line}\n".encode(), f"{line}\nnew\n".encode())))
    assert "hunter2" not in shown
    assert "***" in shown
    assert "+new" in shown


def test_tables_of_that_name_are() -> None:
    shown = list(diff(Change("/f", b"auth:\n  a: 1\n", b"auth:\n  a: 2\n")))
    assert " auth:" in shown
