"""The lines of the audit log, to the system's log as well: RFC 5424, over the socket of its daemon.

Not the standard library's handler: it waits when the daemon does not read, and has the older form's header.
Law: it never waits and never fails; what the daemon does not take is counted.
"""

import os
import socket
from contextlib import suppress
from pathlib import Path

from meshsat.audit.event import FAILURE, Entry
from meshsat.audit.lines import when

DEVICE = Path("/dev/log")
FACILITY = 13
"""`log audit` (RFC 5424, 6.2.1)."""
WARNING, INFO = 4, 6


class Syslog:
    """Call it with each line that was written."""

    def __init__(self, device: Path = DEVICE) -> None:
        self._device = device
        self._host = socket.gethostname() or "-"
        self._socket: socket.socket | None = None
        self.lost = 0
        """Lines that the daemon did not take."""

    def __call__(self, entry: Entry, line: bytes) -> None:
        message = self._header(entry).encode("ascii", "replace") + line
        for _ in range(2):  # the daemon may have been started anew
            try:
                self._connected().send(message)
            except OSError:
                self.close()
            else:
                return
        self.lost += 1

    def close(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
            self._socket = None

    def _header(self, entry: Entry) -> str:
        priority = FACILITY * 8 + (WARNING if entry.outcome == FAILURE else INFO)
        return f"<{priority}>1 {when(entry.at)} {self._host} meshsat {os.getpid()} {entry.event[:32]} - "

    def _connected(self) -> socket.socket:
        """Raises `OSError`."""
        if self._socket is None:
            opened = socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
            try:
                opened.connect(os.fspath(self._device))
            except OSError:
                opened.close()
                raise
            self._socket = opened
        return self._socket
