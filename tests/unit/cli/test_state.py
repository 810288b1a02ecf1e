"""From nothing to a fleet that follows: the verbs of `meshsat state`, against a node whose states are real."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshsat.cli import node_place
from meshsat.fleet.document import parse_state_untrusted
from meshsat.fleet.state_file import parse_state_file_untrusted
from meshsat.mesh.identity import init_fleet
from tests.bundle_place import MemoryPlace
from tests.images import build_image
from tests.unit.cli.conftest import Ended, FakeNode, Meshsat

TOML = """
expires = "30d"

[[images]]
reference = "reg.test/pos/app:{tag}"
copies = 2
"""
Verb = Callable[..., Ended]


@pytest.fixture
def member(short_dir: Path) -> Path:
    """A machine where `meshsat init` ran; before its node is up."""
    init_fleet(short_dir, "trains", "train-1", "coach-1", 1_800_000_000.0)
    return short_dir


@pytest.fixture
def state(meshsat: Meshsat, member: Path, node: FakeNode) -> Verb:
    """`meshsat state ...` on the machine of the node."""

    def run(*arguments: str | Path, code: int = 0) -> Ended:
        ended = meshsat("state", *arguments, "--data-dir", member)
        assert ended.code == code, ended.err
        return ended

    return run


@pytest.fixture
def key(meshsat: Meshsat, tmp_path: Path) -> Callable[[str], tuple[Path, str]]:
    def make(name: str) -> tuple[Path, str]:
        path = tmp_path / f"{name}.key"
        return path, meshsat("state", "key", "new", path).out.strip()

    return make


def authored(tmp_path: Path, tag: str = "1", name: str = "site.toml") -> Path:
    path = tmp_path / name
    path.write_text(TOML.format(tag=tag))
    return path


def in_force(state: Verb) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(state("show", "--json").out)
    return found


def test_the_quick_way(state: Verb, tmp_path: Path, member: Path) -> None:
    ended = state("publish", authored(tmp_path))
    assert "root 1 is made" in ended.err
    assert "revision 1 is published" in ended.out
    assert (member / "identity" / "state.key").stat().st_mode & 0o777 == 0o600
    told = in_force(state)
    assert (told["revision"], told["root"], told["threshold"]) == (1, 1, 1)
    assert told["expires"] - told["issued"] == 30 * 86400
    ended = state("publish", authored(tmp_path, "2"))
    assert "root" not in ended.err
    assert in_force(state)["revision"] == 2
    shown = state("show").out
    assert "reg.test/pos/app:2" in shown
    assert "revisions" in shown


def test_the_long_way_with_several_signers(
    state: Verb, meshsat: Meshsat, tmp_path: Path, member: Path, key: Any
) -> None:
    """Keys on other machines: those sign what is carried to them, and are no members of the fleet."""
    (r1, r1_id), (r2, r2_id), (s1, s1_id), (s2, s2_id) = (key(name) for name in ("r1", "r2", "s1", "s2"))
    root = tmp_path / "root.state"
    state(
        "root", "new", "-o", root, "--root-key", r1_id, "--root-key", r2, "--root-threshold", "2",
        "--state-key", s1_id, "--state-key", s2, "--state-threshold", "2",
    )  # fmt: skip
    ended = state("publish", root, code=2)
    assert "root 1 is not signed by enough" in ended.err
    assert "1 more of the fleet's root key" in ended.err
    state("sign", root, "--key", member / "identity" / "root.key")
    elsewhere = tmp_path / "elsewhere"
    for one in (r1, r2):
        meshsat("state", "sign", root, "--key", one, "--data-dir", elsewhere)
    assert not elsewhere.exists()
    state("publish", root)
    draft = tmp_path / "x.state"
    ended = state("draft", authored(tmp_path), "-o", draft)
    assert "INCOMPLETE" in ended.out
    assert s2_id in ended.out
    state("sign", draft, "--key", s1)
    assert "1 of 2" in state("show", draft).out
    assert "is not signed by enough" in state("publish", draft, code=2).err
    assert "nothing in it is for these keys" in state("sign", draft, "--key", s1).err
    assert "nothing in it is for these keys" in state("sign", draft, "--key", r1).err
    state("sign", draft, "--key", s2)
    state("publish", draft)
    assert in_force(state)["revision"] == 1
    (r3, r3_id) = key("r3")
    state("root", "change", "-o", root, "--add-root-key", r3_id, "--remove-root-key", r2_id, "--remove-state-key", s1_id, "--state-threshold", "1")  # fmt: skip
    for one in (r1, r3):
        state("sign", root, "--key", one)
    assert "root 1's root keys" in state("publish", root, code=2).err
    state("sign", root, "--key", r2)
    state("publish", root)
    told = in_force(state)
    assert (told["root"], told["keys"], told["revoked"]) == (2, [s2_id], False)


def test_taking_a_key_back_and_publishing_anew(state: Verb, tmp_path: Path, key: Any) -> None:
    state("publish", authored(tmp_path), "--revision", "1000000")
    (new, _) = key("new")
    (old,) = in_force(state)["keys"]
    root = tmp_path / "root.state"
    state("root", "change", "-o", root, "--add-state-key", new, "--remove-state-key", old)
    state("sign", root)
    both = tmp_path / "both.state"
    state("publish", authored(tmp_path, "2"), "--from", root, "--revision", "2", "--key", new, "-o", both)
    told = in_force(state)
    assert (told["revision"], told["root"]) == (2, 2)
    assert len(parse_state_file_untrusted(both.read_bytes()).roots) == 2


def test_a_rollback_is_a_new_revision(state: Verb, tmp_path: Path) -> None:
    for tag in ("1", "2"):
        state("publish", authored(tmp_path, tag))
    assert "revision 3 says what revision 1 said" in state("rollback", "1", "--publish").out
    assert in_force(state)["revision"] == 3
    assert "reg.test/pos/app:1" in state("show").out
    state("rollback", "2", "-o", tmp_path / "back.state")
    assert "signed by root 1's state keys: 0 of 1" in state("show", tmp_path / "back.state").out
    assert "accepted lately: 1, 2, 3" in state("rollback", "9", "--publish", code=1).err
    assert "--output" in state("rollback", "1", code=2).err


def test_differences(state: Verb, tmp_path: Path) -> None:
    one, two = authored(tmp_path, "1", "one.toml"), authored(tmp_path, "2", "two.toml")
    assert state("diff", one, two).out == "+ image reg.test/pos/app:2\n- image reg.test/pos/app:1\n"
    assert state("diff", one, one).out == "no difference\n"
    state("publish", one)
    state("publish", two)
    assert state("diff", one).out.startswith("+ image reg.test/pos/app:1")
    assert json.loads(state("diff", "1", "2", "--json").out)[0] == {
        "kind": "added", "what": "image reg.test/pos/app:2", "fields": {},
    }  # fmt: skip
    two.write_text(two.read_text().replace("copies = 2", "copies = 3"))
    assert "copies: 2 -> 3" in state("diff", "2", two).out


def test_yaml_and_what_is_wrong_in_it(state: Verb, tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("images:\n- reference: reg.test/a:1\n  prio: 3\n")
    ended = state("publish", path, code=2)
    assert "images.0.prio" in ended.err
    assert str(path) in ended.err
    path.write_text("images:\n- reference: reg.test/a:1\n  priority: 3\n")
    state("publish", path)
    assert "reg.test/a:1" in state("show").out
    assert "is not called .toml or .yaml" in state("draft", tmp_path / "x", "-o", tmp_path / "y", code=2).err


def test_tags_are_pinned_by_asking_the_node(
    state: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = MemoryPlace()
    image = build_image([b"layer"])
    place.hold(image, "reg.test/pos/app:1", 1.0)
    monkeypatch.setattr(node_place, "NodePlace", lambda _data_dir: place)
    kept = tmp_path / "kept.state"
    state("publish", authored(tmp_path), "--pin", "-o", kept)
    body = parse_state_file_untrusted(kept.read_bytes()).body
    assert body is not None
    assert parse_state_untrusted(body).images[0].reference == f"reg.test/pos/app:1@{image.root}"
    assert (
        "can't tell what reg.test/pos/app:7" in state("publish", authored(tmp_path, "7"), "--pin", code=1).err
    )


def test_onto_a_stick_and_in_from_it(state: Verb, meshsat: Meshsat, tmp_path: Path, member: Path) -> None:
    state("publish", authored(tmp_path), "-o", tmp_path / "x.state")
    for output in ("x.tar", "x.tar.zst", "layout"):
        bundle = tmp_path / output
        assert "meshsat import" in state("publish", tmp_path / "x.state", "--bundle", bundle).out
        ended = meshsat("import", bundle, "--data-dir", member)
        assert (ended.code, ended.err) == (0, "")
        assert "desired state: revision 1 holds" in ended.out
    old = tmp_path / "old.tar"
    state("publish", tmp_path / "x.state", "--bundle", old)
    state("publish", authored(tmp_path, "2"))
    ended = meshsat("import", old, "--data-dir", member)
    assert ended.code == 1
    assert "older than revision 2" in ended.err


def test_an_older_or_foreign_one_is_refused(state: Verb, tmp_path: Path, meshsat: Meshsat) -> None:
    state("publish", authored(tmp_path), "-o", tmp_path / "old.state")
    state("publish", authored(tmp_path, "2"))
    assert "older than revision 2" in state("publish", tmp_path / "old.state", code=1).err
    other = tmp_path / "o"
    init_fleet(other, "ships", "ship-1", "deck", 1_800_000_000.0)
    ended = meshsat("state", "publish", tmp_path / "old.state", "--data-dir", other)
    assert ended.code == 2
    assert "of the fleet" in ended.err or "not signed by enough" in ended.err


def test_without_a_root_it_says_what_to_do(state: Verb, tmp_path: Path, member: Path) -> None:
    (member / "identity" / "root.key").unlink()
    ended = state("publish", authored(tmp_path), code=2)
    assert "meshsat state root new" in ended.err
    assert "none: nothing can be signed yet" in state("show").out


def test_flags_that_say_nothing_are_refused(state: Verb, tmp_path: Path) -> None:
    state("publish", authored(tmp_path), "-o", tmp_path / "x.state")
    ended = state("publish", tmp_path / "x.state", "--revision", "7", code=2)
    assert "published as it is" in ended.err


def test_without_a_node_it_says_so(meshsat: Meshsat, member: Path, tmp_path: Path) -> None:
    ended = meshsat("state", "publish", authored(tmp_path), "--data-dir", member)
    assert ended.code == 1
    assert "no node runs" in ended.err


def test_show_as_json(state: Verb, tmp_path: Path) -> None:
    state("publish", authored(tmp_path), "-o", tmp_path / "x.state")
    told = json.loads(state("show", tmp_path / "x.state", "--json").out)
    assert [one["name"] for one in told["documents"]] == ["root 1", "revision 1"]
    assert all(one["complete"] for one in told["documents"])
    assert told["body"]["images"][0]["reference"] == "reg.test/pos/app:1"
