import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from meshsat.errors import ConfigError
from meshsat.mesh import identity
from meshsat.mesh.identity import (
    accept_pass,
    begin_switch,
    identity_dir,
    init_fleet,
    is_member,
    load,
    make_token,
    node_key,
)
from meshsat.trust.keys import NodeKey, PeerId
from meshsat.trust.passes import DAY, NODE, PassError, verify_pass_untrusted
from meshsat.trust.tokens import Grant, parse_untrusted
from tests.fleet import Fleet

NOW = 1_800_000_000.0
GRANT = Grant("shop", frozenset({NODE}), 1, NOW + DAY)


def test_a_new_fleet(tmp_path: Path) -> None:
    data = tmp_path / "deep" / "data"
    made = init_fleet(data, "acme", "hq", "boss", NOW)
    assert load(data) == made
    assert (made.member.name, made.member.site) == ("boss", "hq")
    assert made.member.roles == {"node", "enroller"}
    assert made.member.fleet.startswith("acme-")
    verify_pass_untrusted(made.chain, made.root, NOW)
    root = made.root_issuer()
    assert root is not None
    assert made.issuer is not None
    assert parse_untrusted(make_token(made, GRANT)).author == made.key.peer_id


def test_nobody_else_reads_the_files(tmp_path: Path) -> None:
    data = tmp_path / "data"
    init_fleet(data, "acme", "hq", "boss", NOW)
    directory = identity_dir(data)
    assert {path.name for path in directory.iterdir()} == {
        "node.key",
        "root.crt",
        "pass.crt",
        "enroller.crt",
        "root.key",
    }
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for path in (data, directory):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_fleet_is_made_once(tmp_path: Path) -> None:
    before = init_fleet(tmp_path, "acme", "hq", "boss", NOW)
    with pytest.raises(ConfigError, match="already"):
        init_fleet(tmp_path, "other", "hq", "boss", NOW)
    assert load(tmp_path) == before


@pytest.mark.parametrize("names", [("No", "hq", "boss"), ("acme", "h/q", "boss"), ("acme", "hq", "")])
def test_bad_names_make_nothing(tmp_path: Path, names: tuple[str, str, str]) -> None:
    with pytest.raises(ConfigError, match="name"):
        init_fleet(tmp_path, *names, NOW)
    assert not is_member(tmp_path)


def test_no_fleet_is_made_by_a_clock_that_was_never_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1970-01-01"):
        init_fleet(tmp_path, "acme", "hq", "boss", 60.0)
    assert not is_member(tmp_path)


def test_without_a_fleet_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"meshsat init.*meshsat join"):
        load(tmp_path)


def test_a_pass_that_ran_out_still_loads(tmp_path: Path) -> None:
    late = Fleet(now=NOW).expired(directory=tmp_path)
    assert load(tmp_path) == late
    with pytest.raises(PassError):
        verify_pass_untrusted(late.chain, late.root, NOW)


def test_the_node_key_stays(tmp_path: Path) -> None:
    assert node_key(tmp_path) == node_key(tmp_path)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    node_key(tmp_path)
    path = identity_dir(tmp_path) / "node.key"
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        node_key(tmp_path)


def test_renewal_and_other_peoples_passes(tmp_path: Path) -> None:
    fleet, other = Fleet(now=NOW), Fleet(now=NOW)
    key = node_key(tmp_path)
    first = accept_pass(tmp_path, fleet.root.certificate, fleet.chain(key, "till"))
    newer = accept_pass(tmp_path, fleet.root.certificate, fleet.chain(key, "till"))
    assert newer.member.serial != first.member.serial
    for root, chain, words in (
        (other.root.certificate, other.chain(key), "another fleet"),
        (fleet.root.certificate, fleet.chain(NodeKey.generate()), "this machine is"),
        (fleet.root.certificate, other.chain(key), "of no use"),
    ):
        with pytest.raises(ConfigError, match=words):
            accept_pass(tmp_path, root, chain)
    with pytest.raises(ConfigError, match="this machine is"):
        accept_pass(tmp_path, fleet.root.certificate, fleet.chain(key), fleet.enroller.certificate)
    assert load(tmp_path) == newer
    assert newer.issuer is newer.root_issuer() is None
    with pytest.raises(ConfigError, match="no enroller"):
        make_token(newer, GRANT)


@pytest.mark.parametrize("name", ["node.key", "root.crt", "pass.crt", "enroller.crt"])
@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
def test_damaged_files_are_told_by_name(tmp_path: Path, name: str, content: bytes | None) -> None:
    init_fleet(tmp_path, "acme", "hq", "boss", NOW)
    path = identity_dir(tmp_path) / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    if content is None and name == "enroller.crt":
        assert load(tmp_path).issuer is None
        return
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    if name != "pass.crt" or content is not None:
        assert name in str(caught.value)
    assert "nonsense" not in str(caught.value)


def test_a_pass_for_another_key_is_told(tmp_path: Path) -> None:
    init_fleet(tmp_path, "acme", "hq", "boss", NOW)
    (identity_dir(tmp_path) / "node.key").write_bytes(NodeKey.generate().to_pem())
    with pytest.raises(ConfigError, match="not for the key"):
        load(tmp_path)


def test_a_token_is_not_made_of_nonsense(tmp_path: Path) -> None:
    made = init_fleet(tmp_path, "acme", "hq", "boss", NOW)
    with pytest.raises(ConfigError, match="uses"):
        make_token(made, Grant("shop", frozenset({NODE}), 0, NOW))


# --- another key


def prepare_switch(data: Path, fleet: Fleet) -> tuple[PeerId, PeerId]:
    """A member with its next key staged; both peer ids."""
    old = fleet.member("till", directory=data)
    new = begin_switch(data)
    assert begin_switch(data) == new  # the same again after a try that came to nothing
    assert load(data).key == old.key
    return old.key.peer_id, new.peer_id


def test_a_switch_changes_key_and_pass_together(tmp_path: Path) -> None:
    fleet = Fleet(now=NOW)
    old, new = prepare_switch(tmp_path, fleet)
    switched = identity.switch(tmp_path, fleet.chain(begin_switch(tmp_path), "till"), None, b"word")
    assert (switched.key.peer_id, switched.member.peer) == (new, new)
    assert new != old
    assert identity.superseded(tmp_path) == b"word"
    identity.forget_superseded(tmp_path)
    assert identity.superseded(tmp_path) is None
    assert {path.name for path in identity_dir(tmp_path).iterdir()} == {"node.key", "root.crt", "pass.crt"}
    assert begin_switch(tmp_path).peer_id not in (old, new)


def test_a_pass_for_another_key_switches_nothing(tmp_path: Path) -> None:
    fleet = Fleet(now=NOW)
    old, _ = prepare_switch(tmp_path, fleet)
    for chain in (fleet.chain(NodeKey.generate()), Fleet(now=NOW).chain(begin_switch(tmp_path))):
        with pytest.raises(ConfigError):
            identity.switch(tmp_path, chain)
    assert load(tmp_path).key.peer_id == old


def test_an_enroller_that_switches_to_a_plain_key_is_none_any_more(tmp_path: Path) -> None:
    fleet = Fleet(now=NOW)
    fleet.member("boss", enroller=True, directory=tmp_path)
    assert load(tmp_path).issuer is not None
    switched = identity.switch(tmp_path, fleet.chain(begin_switch(tmp_path)))
    assert switched.issuer is None
    assert load(tmp_path).issuer is None


def test_a_switch_may_be_killed_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each call that changes the disk: what is loaded is whole, the old or the new, and the next try ends well."""
    fleet = Fleet(now=NOW)
    outcomes = []
    for after in range(40):
        data = tmp_path / str(after)
        old, new = prepare_switch(data, fleet)
        left = [after]

        def dying(call: Callable[..., object], left: list[int] = left) -> Callable[..., object]:
            def wrapped(*args: object, **kwargs: object) -> object:
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
                return call(*args, **kwargs)

            return wrapped

        finished = False
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", dying(Path.replace))
            patch.setattr(Path, "rename", dying(Path.rename))
            patch.setattr(Path, "unlink", dying(Path.unlink))
            patch.setattr("os.fsync", dying(os.fsync))
            patch.setattr("shutil.rmtree", dying(shutil.rmtree))
            try:
                identity.switch(data, fleet.chain(begin_switch(data)), None, b"word")
                finished = True
            except KeyboardInterrupt:
                pass
        found = load(data)
        assert found.member.peer == found.key.peer_id
        assert found.key.peer_id in (old, new)
        assert (identity.superseded(data) == b"word") == (found.key.peer_id == new)
        outcomes.append(found.key.peer_id == new)
        if found.key.peer_id == old:
            assert identity.switch(data, fleet.chain(begin_switch(data))).key.peer_id == new
        if finished:
            break
    assert finished
    assert outcomes[0] is False
    assert outcomes[-1] is True
    assert outcomes == sorted(outcomes)
    assert sum(outcomes) > 5
