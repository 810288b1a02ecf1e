"""A text as lines that are given back as they came:
line ends, indentation, a missing end of the last line.
"""

import re

INDENT = re.compile(r"[ \t]*")


def newline_of(text: str) -> str:
    """What ends the lines of `text`: CR LF where the first line does."""
    head, found, _ = text.partition("\n")
    return "\r\n" if found and head.endswith("\r") else "\n"


def split(text: str) -> list[str]:
    """Lines with their ends. Only LF ends one, as for all the parsers here."""
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def indent_of(line: str) -> str:
    found = INDENT.match(line)
    return found[0] if found else ""


def as_lines(text: str, *new: str) -> list[str]:
    """`new` as lines of `text`, with its line ends."""
    return [line + newline_of(text) for line in new]


def ended(text: str) -> str:
    """`text` with an end to its last line."""
    return text + newline_of(text) if text and not text.endswith("\n") else text
