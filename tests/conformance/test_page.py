"""docs/reference/conformance.md names every endpoint of the specification, and tests that are there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent.parent / "docs" / "reference" / "conformance.md").read_text(encoding="utf-8")
ENDPOINTS = [
    "end-1", "end-2", "end-3", "end-4a", "end-4b", "end-4c", "end-5", "end-6", "end-7a", "end-7b", "end-8a", "end-8b",
    "end-9", "end-10", "end-11", "end-12a", "end-12b", "end-13", "end-14",
]  # fmt: skip
ROW = re.compile(r"^\| (end-[0-9]+[a-c]?) \| .* \| ([^|]+) \|$", re.MULTILINE)


def test_every_endpoint_has_its_row() -> None:
    assert [row[1] for row in ROW.finditer(PAGE)] == ENDPOINTS


def test_every_row_names_tests_that_name_the_endpoint() -> None:
    for row in ROW.finditer(PAGE):
        sources = [(TESTS / f"{name.strip()}.py").read_text(encoding="utf-8") for name in row[2].split(",")]
        assert any(re.search(rf"\b{row[1]}\b", source) for source in sources), row[1]


def test_every_test_names_its_section() -> None:
    """In its docstring: an endpoint, a section's title in quotes, or a rule of an RFC or of Docker's."""
    for path in TESTS.glob("test_*.py"):
        if path.name == "test_page.py":
            continue
        for found in re.finditer(
            r'\ndef (test_\w+)\(.*?\) -> None:\n    ("""[^"].*?""")', path.read_text(), re.DOTALL
        ):
            assert re.search(r'end-[0-9]+|"|RFC|code-|Docker|image-spec|clients', found[2]), (
                path.name,
                found[1],
            )
        undocumented = re.findall(r'\ndef (test_\w+)\([^)]*\) -> None:\n    (?!""")', path.read_text())
        assert undocumented == [], path.name
