import re
import socket
from pathlib import Path

from meshsat.audit.event import NODE, Entry
from meshsat.audit.lines import FIRST_PREV, encode
from meshsat.audit.syslog import Syslog

ENTRY = Entry(1_800_000_000.5, "node.start", NODE, "a", "success")
LINE = encode(ENTRY, 1, FIRST_PREV)


def daemon(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(path))
    listener.settimeout(5)
    return listener


def test_a_line_is_a_message_of_rfc_5424(tmp_path: Path) -> None:
    syslog = Syslog(tmp_path / "log")
    with daemon(tmp_path / "log") as listener:
        syslog(ENTRY, LINE)
        message = listener.recv(65536)
    header, _, rest = message.partition(b" - ")
    assert re.fullmatch(rb"<110>1 2027-01-15T08:00:00\.500Z \S+ meshsat [0-9]+ node\.start", header)
    assert rest == LINE
    syslog.close()


def test_a_failure_is_a_warning(tmp_path: Path) -> None:
    syslog = Syslog(tmp_path / "log")
    with daemon(tmp_path / "log") as listener:
        syslog(Entry(1.0, "user.login", NODE, "a", "failure"), LINE)
        assert listener.recv(65536).startswith(b"<108>1 ")
    syslog.close()


def test_a_daemon_that_is_not_there_does_not_read_or_was_started_anew(tmp_path: Path) -> None:
    syslog = Syslog(tmp_path / "log")
    syslog(ENTRY, LINE)
    assert syslog.lost == 1
    with daemon(tmp_path / "log") as listener:
        for _ in range(10_000):
            syslog(ENTRY, LINE)
            if syslog.lost > 1:
                break
        assert syslog.lost > 1
        assert listener.recv(65536)
    before = syslog.lost
    with daemon(tmp_path / "log") as listener:
        syslog(ENTRY, LINE)
        assert listener.recv(65536).endswith(LINE)
    assert syslog.lost == before
    syslog.close()
