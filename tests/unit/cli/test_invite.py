import time
from pathlib import Path

import pytest

from meshsat.mesh.identity import load
from meshsat.trust.passes import ENROLLER, NODE
from meshsat.trust.tokens import PREFIX, Token, parse_untrusted
from tests.fleet import Fleet
from tests.unit.cli.conftest import Ended, FakeNode, Meshsat


def token_of(ended: Ended) -> Token:
    """The token alone is on stdout."""
    assert ended.code == 0
    (line,) = ended.out.splitlines()
    assert line.startswith(PREFIX)
    return parse_untrusted(line)


@pytest.fixture
def data_dir(meshsat: Meshsat, tmp_path: Path) -> Path:
    meshsat("init", "trains", "--site", "train-1", "--name", "coach-7", "--data-dir", tmp_path)
    return tmp_path


def test_a_token_is_for_one_machine_at_this_site_for_a_day(meshsat: Meshsat, data_dir: Path) -> None:
    ended = meshsat("invite", "--data-dir", data_dir)
    token = token_of(ended)
    token.verify(load(data_dir).root, time.time())
    assert (token.grant.site, token.grant.uses, token.grant.roles) == ("train-1", 1, frozenset({NODE}))
    assert 86_390 < token.grant.expires - time.time() <= 86_400
    assert "does not run" in ended.err
    assert PREFIX not in ended.err


def test_flags_say_for_how_many_how_long_and_where(meshsat: Meshsat, data_dir: Path) -> None:
    ended = meshsat("invite", "--uses", 5, "--expires", "1h", "--site", "train-2", "--data-dir", data_dir)
    grant = token_of(ended).grant
    assert (grant.site, grant.uses) == ("train-2", 5)
    assert grant.expires - time.time() <= 3600


def test_roles_by_which_states_name_them(meshsat: Meshsat, data_dir: Path) -> None:
    token = token_of(meshsat("invite", "--role", "cache", "--role", "till", "--data-dir", data_dir))
    assert token.grant.roles == {NODE, "cache", "till"}
    for wrong in ("enroller", "node", "Cache", "a b", ""):
        ended = meshsat("invite", "--role", wrong, "--data-dir", data_dir)
        assert (ended.code, ended.out) == (2, "")
        assert "is no role" in ended.err


def test_a_running_node_puts_its_address_in(meshsat: Meshsat, node: FakeNode) -> None:
    meshsat("init", "trains", "--data-dir", node.data_dir)
    assert token_of(meshsat("invite", "--data-dir", node.data_dir)).grant.addresses == ("10.0.0.7:4701",)


def test_enrollers_are_made_where_the_root_key_is(meshsat: Meshsat, data_dir: Path) -> None:
    token = token_of(meshsat("invite", "--enroller", "--data-dir", data_dir))
    assert token.grant.roles == {NODE, ENROLLER}
    (data_dir / "identity" / "root.key").unlink()
    ended = meshsat("invite", "--enroller", "--data-dir", data_dir)
    assert (ended.code, ended.out) == (2, "")
    assert "root key" in ended.err


def test_a_plain_member_cannot_invite(meshsat: Meshsat, tmp_path: Path) -> None:
    Fleet().member(directory=tmp_path)
    ended = meshsat("invite", "--data-dir", tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert "no enroller" in ended.err


@pytest.mark.parametrize("wrong", [("--expires", "soon"), ("--site", "no such/site"), ("--uses", "0")])
def test_what_makes_no_sense_is_misuse(meshsat: Meshsat, data_dir: Path, wrong: tuple[str, str]) -> None:
    ended = meshsat("invite", *wrong, "--data-dir", data_dir)
    assert (ended.code, ended.out) == (2, "")


def test_without_a_fleet_it_says_how_to_get_one(meshsat: Meshsat, tmp_path: Path) -> None:
    ended = meshsat("invite", "--data-dir", tmp_path)
    assert ended.code == 2
    assert "meshsat init" in ended.err
