"""The audit log as the configuration has it: the node's, and one line of a verb that works without a node."""

import os
import time
from collections.abc import Sequence

from meshsat.audit.event import Actor, Entry
from meshsat.audit.journal import Journal
from meshsat.audit.log import AuditLog
from meshsat.audit.syslog import Syslog
from meshsat.config import Config


def open_log(config: Config) -> AuditLog | None:
    """The node's. None: there is to be none."""
    return AuditLog(journal_of(config), time.time) if config.audit.enabled else None


def journal_of(config: Config) -> Journal:
    section = config.audit
    sink = Syslog() if section.syslog else None
    return Journal(config.audit_file, section.max_bytes, section.keep, sink)


def write_now(config: Config, entries: Sequence[Entry]) -> None:
    """Blocking. Raises `JournalError`."""
    if config.audit.enabled:
        journal_of(config).append(entries)


def this_process() -> Actor:
    """Whoever runs a verb."""
    return Actor("operator", f"uid:{os.getuid()}", f"pid:{os.getpid()}")
