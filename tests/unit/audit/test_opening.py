import os
from pathlib import Path

from meshsat.audit.event import Entry
from meshsat.audit.opening import journal_of, open_log, this_process, write_now
from meshsat.config import Config


def test_the_configuration_says_where_and_whether(tmp_path: Path) -> None:
    entry = Entry(1.0, "fleet.create", this_process(), "acme", "success")
    config = Config.load(data_dir=tmp_path / "data")
    write_now(config, [entry])
    (line,) = journal_of(config).lines(10)
    assert (line.entry.actor.kind, line.entry.actor.id) == ("operator", f"uid:{os.getuid()}")
    assert config.audit_file == tmp_path / "data" / "audit" / "audit.jsonl"
    assert open_log(config) is not None

    elsewhere = Config.load(data_dir=tmp_path / "data", audit={"file": tmp_path / "elsewhere" / "log"})
    write_now(elsewhere, [entry])
    assert (tmp_path / "elsewhere" / "log").exists()

    off = Config.load(data_dir=tmp_path / "off", audit={"enabled": False})
    write_now(off, [entry])
    assert open_log(off) is None
    assert not (tmp_path / "off").exists()
