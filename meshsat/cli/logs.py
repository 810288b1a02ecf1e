"""Logging of a node: events with fields, on stderr, as JSON lines or for the eye.

Laws: a field whose name or value looks like a secret is never written, whoever logs it. Other people's
libraries are heard only when something is wrong, and py-libp2p, whose ERROR is a peer that hung up, only at
level debug: what matters about a peer is told by meshsat itself.
"""

import logging
import re
import sys
from collections.abc import Callable
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from meshsat.config import LogSection
from meshsat.errors import ConfigError

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
NOISY = ("libp2p", "multiaddr")
"""Libraries whose own levels mean little: everything of theirs counts as debug."""
HIDDEN = "(hidden)"
SECRET_NAME = re.compile(r"token|secret|passw|authorization|credential|private|cookie", re.IGNORECASE)
SECRET_VALUE = re.compile(
    r"meshsat-join-[\w=-]+|-----BEGIN [A-Z ]*PRIVATE KEY-----.*|(?<=Bearer )\S+|(?<=Basic )\S+|(?<=://)[^/@\s]+(?=@)",
    re.DOTALL,
)


def configure(section: LogSection, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging for the whole process. Raises `ConfigError`.

    `stream` is stderr by default.
    """
    level = _level(section)
    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,  # as text, and without the locals, where keys live
        hide_secrets,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        # The root logger's level decides, which may change later; a wrapper is chosen for good.
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(_Quiet(level))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_ending(section, stream),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(capture=True)
    for name in NOISY:
        # py-libp2p takes its logger out of the root's reach when it is imported: the handler goes there too.
        noisy = logging.getLogger(name)
        noisy.handlers[:] = [handler]
        noisy.propagate = False


def _level(section: LogSection) -> int:
    level = LEVELS.get(section.level.lower())
    if level is None:
        raise ConfigError(f"log.level {section.level!r} is none of {', '.join(LEVELS)}")
    return level


def prepare_level(section: LogSection) -> Callable[[], None]:
    """Another level, while the process runs; what is returned puts it in force. Raises `ConfigError`."""
    level = _level(section)

    def commit() -> None:
        root = logging.getLogger()
        root.setLevel(level)
        for handler in root.handlers:
            for quiet in handler.filters:
                if isinstance(quiet, _Quiet):
                    quiet.level = level

    return commit


class _Quiet(logging.Filter):
    """What of other people's records is worth a line."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level

    def filter(self, record: logging.LogRecord) -> bool:
        family = record.name.partition(".")[0]
        if family in ("meshsat", "__main__"):
            return True
        if family in NOISY or record.name == "root":  # libp2p logs to the root logger as well
            return self.level <= logging.DEBUG
        return record.levelno >= max(self.level, logging.WARNING)


def _ending(section: LogSection, stream: TextIO) -> list[Processor]:
    if section.json_lines:
        return [structlog.processors.JSONRenderer()]
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]


def hide_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The last line of defence: no message should hold a secret in the first place."""
    for name, value in event.items():
        if not name.startswith("_"):  # structlog's own
            event[name] = HIDDEN if SECRET_NAME.search(name) else _without_secrets(value)
    return event


def _without_secrets(value: Any) -> Any:
    """The same, of JSON's types only, and every text in it cleaned."""
    match value:
        case None | bool() | int() | float():
            return value
        case dict():
            return {
                str(key): HIDDEN if SECRET_NAME.search(str(key)) else _without_secrets(inner)
                for key, inner in value.items()
            }
        case list() | tuple() | set() | frozenset():
            return [_without_secrets(inner) for inner in value]
        case _:
            return SECRET_VALUE.sub(HIDDEN, str(value))
