import os
from pathlib import Path

import pytest

from meshsat.audit.opening import journal_of
from meshsat.cli.audited import audited
from meshsat.config import Config
from meshsat.errors import DeniedError


def test_what_a_verb_does_is_in_the_log(tmp_path: Path) -> None:
    config = Config.load(data_dir=tmp_path)
    with audited(config, "token.create", "token") as told:
        told.object = "token 00112233"
    with pytest.raises(DeniedError), audited(config, "token.create", "token"):
        raise DeniedError("no enroller")
    one, other = journal_of(config).lines(10)
    assert (one.entry.object, one.entry.outcome) == ("token 00112233", "success")
    assert (other.entry.outcome, other.entry.reason) == ("failure", "no enroller")
    assert one.entry.actor.id == f"uid:{os.getuid()}"


def test_a_failure_makes_no_data_directory(tmp_path: Path) -> None:
    config = Config.load(data_dir=tmp_path / "typo")
    with pytest.raises(DeniedError), audited(config, "token.create", "token"):
        raise DeniedError("no")
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cannot_be_written_stops_no_verb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "audit").write_text("in the way")
    with audited(Config.load(data_dir=tmp_path), "token.create", "token"):
        pass
    assert "cannot be written" in capsys.readouterr().err
