import io
import json
import logging
import warnings

import pytest
import structlog

from meshsat.cli import logs
from meshsat.config import LogSection
from meshsat.errors import ConfigError


def configured(level: str = "info", *, json_lines: bool = True) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(LogSection(level=level, json_lines=json_lines), stream)
    return stream


def test_an_event_is_a_json_line_with_its_fields() -> None:
    stream = configured()
    structlog.get_logger("meshsat.mesh").info("peer refused", peer="12D3", reason="expired")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["peer"], line["reason"]) == ("peer refused", "12D3", "expired")
    assert (line["level"], line["logger"]) == ("info", "meshsat.mesh")
    assert line["timestamp"].endswith("Z")


def test_for_the_eye_it_is_a_line_too() -> None:
    stream = configured(json_lines=False)
    structlog.get_logger("meshsat").warning("disk nearly full", free=5)
    assert "disk nearly full" in stream.getvalue()
    assert "free=5" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()  # no terminal, no colours


def test_below_the_level_nothing_is_written() -> None:
    stream = configured("warning")
    structlog.get_logger("meshsat").info("quiet")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("level", ["loud", ""])
def test_an_unknown_level_is_a_fault_of_the_configuration(level: str) -> None:
    with pytest.raises(ConfigError, match="debug, info, warning, error"):
        configured(level)


@pytest.mark.parametrize(
    "field",
    [
        {"token": "s3cret"},
        {"password": "s3cret"},
        {"Authorization": "Bearer s3cret"},
        {"header": "Bearer s3cret"},
        {"url": "https://robot:s3cret@registry.test/v2/"},
        {"argument": "meshsat-join-s3cret"},
        {"pem": "-----BEGIN PRIVATE KEY-----\ns3cret"},
        {"client_secret": ["s3cret"]},
        {"request": {"Authorization": "s3cret", "urls": ["https://robot:s3cret@registry.test/"]}},
        {"error": ValueError("meshsat-join-s3cret")},
    ],
)
@pytest.mark.parametrize("json_lines", [True, False])
def test_secrets_are_never_written(field: dict[str, object], json_lines: bool) -> None:
    stream = configured(json_lines=json_lines)
    structlog.get_logger("meshsat").info("asked", **field)
    logging.getLogger("httpx").error("asked as well", extra=field)
    assert len(stream.getvalue().splitlines()) == 2
    assert stream.getvalue().count(logs.HIDDEN) >= 2
    assert "s3cret" not in stream.getvalue()


@pytest.mark.parametrize("json_lines", [True, False])
def test_a_traceback_is_written_without_secrets_and_locals(json_lines: bool) -> None:
    stream = configured(json_lines=json_lines)
    private = ["s3cret of a local variable"]
    try:
        raise ValueError(f"cannot read meshsat-join-s3cret{len(private)}")  # noqa: TRY301 - for the traceback
    except ValueError:
        structlog.get_logger("meshsat").exception("join failed")
        logging.getLogger("httpx").exception("so did this")
    assert stream.getvalue().count("ValueError: cannot read") == 2
    assert "s3cret" not in stream.getvalue()


def test_libraries_are_heard_only_when_something_is_wrong() -> None:
    stream = configured()
    for name in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(name).info("chatter")
        logging.getLogger(name).warning("broken in %s", name)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [
        f"broken in {name}" for name in ("httpx", "httpcore", "asyncio")
    ]


def test_libp2p_is_heard_only_when_debugging() -> None:
    """Its ERROR is a peer that hung up, and some of it goes to the root logger."""

    def speak() -> None:
        logging.getLogger("libp2p.network.swarm").error("failed to dial")
        logging.warning("negotiation timed out")  # noqa: LOG015 - that is what it does

    stream = configured("info")
    speak()
    assert stream.getvalue() == ""
    stream = configured("debug")
    speak()
    assert len(stream.getvalue().splitlines()) == 2


def test_warnings_of_python_are_logged_and_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    stream = configured()
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.showwarning("odd", UserWarning, "x.py", 1)
    assert "odd" in stream.getvalue()
    assert "odd" not in capsys.readouterr().err


def test_the_level_changes_while_the_process_runs_and_a_wrong_one_changes_nothing() -> None:
    stream = configured("info")
    log = structlog.get_logger("meshsat.somewhere")
    log.debug("not yet")
    with pytest.raises(ConfigError, match="debug, info, warning, error"):
        logs.prepare_level(LogSection(level="loud"))
    commit = logs.prepare_level(LogSection(level="debug"))
    log.debug("still not")
    commit()
    log.debug("now")
    logs.prepare_level(LogSection(level="error"))()
    log.warning("no more")
    logging.getLogger("httpx").warning("nor this")
    lines = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert lines == ["now"]
