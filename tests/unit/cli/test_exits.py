import pytest

from meshsat.cli.exits import exit_code, say
from meshsat.errors import (
    ConfigError,
    DeniedError,
    InvalidInputError,
    MeshsatError,
    StorageError,
    StoreLockedError,
    UnavailableError,
)


@pytest.mark.parametrize("fault", [ConfigError, InvalidInputError, StoreLockedError])
def test_what_the_operator_wrote_wrong_is_misuse(fault: type[MeshsatError]) -> None:
    assert exit_code(fault("x")) == 2


@pytest.mark.parametrize("fault", [UnavailableError, DeniedError, StorageError, MeshsatError])
def test_everything_else_is_failure(fault: type[MeshsatError]) -> None:
    assert exit_code(fault("x")) == 1


def test_a_fault_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("disk full:\n  /var/lib")
    assert capsys.readouterr() == ("", "meshsat: disk full: /var/lib\n")
