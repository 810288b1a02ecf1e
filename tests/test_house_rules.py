"""The rules of the house that no linter knows: sizes, the mirror of the unit tests, words, what is never told.

Files are those that git would commit, so that a fault shows before it is committed.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools import tracked

ROOT = Path(__file__).parent.parent
FILE_LINES = 500
TEST_FILE_LINES = 800
BANNED = {
    "block", "blocks", "piece", "pieces", "swarm", "swarms", "manager", "managers", "helper", "helpers",
    "util", "utils", "common", "base",
}  # fmt: skip
"""Words of other systems, and words that say nothing. docs/glossary or the field's standards have better ones."""
WORKPLACE = ("/work" + "/", "/tmp" + "/w/", "contracts" + ".md", "/root" + "/")
"""Pieces of paths that mean nothing on another machine."""
ALLOWED = {
    ("meshsat/config.py", "helper"),
    ("meshsat/uplink/credentials.py", "helper"),
    ("meshsat/uplink/credentials.py", "helpers"),
    ("meshsat/uplink/network.py", "block"),
}
"""Where a standard says the word: Docker's credential helpers, trio's `wait_send_all_might_not_block`."""
COVERED_ELSEWHERE: dict[str, str] = {
    "meshsat/mesh/transport.py": "tests/contract/test_transport.py",
    "meshsat/mesh/memory_transport.py": "tests/contract/test_transport.py",
    "meshsat/reading.py": "tests/unit/test_fetch.py",
    "meshsat/registry/content.py": "tests/contract/test_content.py",
    "meshsat/registry/pulls.py": "tests/unit/registry/test_app.py",
    "meshsat/registry/request.py": "tests/unit/registry/test_pushes.py",
    "meshsat/manifests.py": "tests/unit/test_fetch.py",
    "meshsat/overview.py": "tests/unit/test_node.py",
    "meshsat/fleet_sections.py": "tests/unit/test_config.py",
    "meshsat/completion.py": "tests/unit/test_fetch.py",
    "meshsat/cli/state_keys.py": "tests/unit/cli/test_state.py",
    "meshsat/cli/state_push.py": "tests/unit/cli/test_state.py",
    "meshsat/cli/state_shown.py": "tests/unit/cli/test_state.py",
    "meshsat/pulling.py": "tests/unit/test_fetch.py",
}
"""Module -> the test file that covers it, where that is not the unit test of its name."""


def python(*tops: str) -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py" and path.parts[0] in tops]


def read(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def words(name: str) -> set[str]:
    """The words of a snake_case or CamelCase name, in lower case."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return {word for word in parted.lower().split("_") if word}


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names that the file itself chose and others may read; what is local to a function is not vocabulary."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
                yield from _fields(node)
            case ast.Module():
                yield from _fields(node)
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.alias(asname=str(chosen)):
                yield 0, chosen


def _fields(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Constants of a module, fields of a class."""
    if isinstance(node, ast.Module | ast.ClassDef):
        for step in node.body:
            targets = step.targets if isinstance(step, ast.Assign) else [getattr(step, "target", None)]
            yield from ((step.lineno, target.id) for target in targets if isinstance(target, ast.Name))


def has_code(path: Path) -> bool:
    """Whether there is anything to test: a function that does something. Not so: constants, values, interfaces."""
    for node in ast.walk(ast.parse(read(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            does = [
                step
                for step in node.body
                if not (isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant))
            ]
            if does:
                return True
    return False


def test_no_file_is_too_long() -> None:
    long = {}
    for path in python("meshsat", "sim", "tests"):
        lines, cap = read(path).count("\n"), TEST_FILE_LINES if path.parts[0] == "tests" else FILE_LINES
        if lines > cap:
            long[str(path)] = lines
    assert not long, f"split these by what they do: {long}"


def test_every_module_with_code_has_its_unit_test() -> None:
    there = set(tracked())
    missing = []
    for path in python("meshsat"):
        if path.name in ("__init__.py", "__main__.py") or not has_code(path):
            continue
        inner = path.relative_to("meshsat")
        test = COVERED_ELSEWHERE.get(str(path)) or f"tests/unit/{inner.with_name(f'test_{inner.name}')}"
        if Path(test) not in there:
            missing.append(f"{path} -> {test}")
    assert not missing, "\n".join(missing)


def test_every_unit_test_has_its_module() -> None:
    there = set(tracked())
    orphans = []
    for path in python("tests"):
        if path.parts[1] != "unit" or not path.name.startswith("test_"):
            continue
        inner = path.relative_to("tests/unit")
        module = Path("meshsat", inner.with_name(inner.name.removeprefix("test_")))
        if module not in there:
            orphans.append(f"{path} tests no {module}")
    assert not orphans, "\n".join(orphans)


def test_what_is_covered_elsewhere_exists() -> None:
    there = set(map(str, tracked()))
    assert set(COVERED_ELSEWHERE) | set(COVERED_ELSEWHERE.values()) <= there


def test_no_banned_word_in_a_name() -> None:
    found = [
        f"{path}:{line} {name}"
        for path in python("meshsat", "sim")
        for line, name in [(0, path.stem), *defined_names(ast.parse(read(path)))]
        if any((str(path), word) not in ALLOWED for word in words(name) & BANNED)
    ]
    assert not found, "\n".join(found)


def test_no_path_of_a_workplace_is_told() -> None:
    found = []
    for path in tracked():
        try:
            text = read(path)
        except UnicodeDecodeError:
            continue
        found += [
            f"{path}:{number} {line.strip()[:80]}"
            for number, line in enumerate(text.splitlines(), 1)
            if any(told in line for told in WORKPLACE)
        ]
    assert not found, "\n".join(found)


def test_locked_lists_name_no_index() -> None:
    """The lists are good against any index, by their hashes; whose it is, is each machine's own business."""
    for path in tracked():
        if path.suffix == ".lock":
            text = read(path)
            assert "--hash=sha256:" in text
            assert not re.search(
                r"^\s*(-i|--(extra-)?index-url|--find-links)|https?://", text, re.MULTILINE
            ), path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("block_size", {"block", "size"}),
        ("PeerManager", {"peer", "manager"}),
        ("base58", {"base58"}),
        ("contextmanager", {"contextmanager"}),
        ("_UTILS", {"utils"}),
    ],
)
def test_words_of_a_name(name: str, expected: set[str]) -> None:
    assert words(name) == expected
