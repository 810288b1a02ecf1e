import dataclasses
import json

import pytest
from rich.console import Console

from meshsat.demo.report import Result, as_table

RESULT = Result(
    image_bytes=40_000_000,
    uplink=20_000_000,
    wan_bytes=40_100_000,
    node_seconds={"node-1": 16.4, "node-2": 16.8},
    client="skopeo",
    client_node="node-2",
)


def test_the_limit_is_size_over_uplink_and_the_ratio_that_of_the_last_node() -> None:
    assert RESULT.limit_seconds == 16
    assert RESULT.seconds_last == 16.8
    assert RESULT.ratio == pytest.approx(1.05)


def test_json_has_what_was_promised_on_one_line() -> None:
    line = json.dumps(RESULT.as_json())
    assert "\n" not in line
    promised = {"nodes", "image_bytes", "wan_bytes", "seconds_last", "limit_seconds", "ratio", "client", "ok"}
    assert promised <= json.loads(line).keys()
    assert (RESULT.as_json()["nodes"], RESULT.as_json()["ok"]) == (2, True)


def test_an_image_that_crossed_the_wan_more_than_once_is_not_ok() -> None:
    assert not dataclasses.replace(RESULT, wan_bytes=41_000_000).ok


def test_headers_may_weigh_on_a_small_image() -> None:
    assert dataclasses.replace(RESULT, image_bytes=500_000, wan_bytes=540_000).ok


def test_the_table_compares_with_doing_without() -> None:
    console = Console(width=120, force_terminal=False)
    with console.capture() as capture:
        console.print(as_table(RESULT))
    text = capture.get()
    for figure in ("16.8 s", "16.0 s", "1.05 x the limit", "32.0 s", "40.1 MB", "80.0 MB", "skopeo"):
        assert figure in text
    assert "NOT OK" not in text
