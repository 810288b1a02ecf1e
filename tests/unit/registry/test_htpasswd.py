"""The htpasswd file: what is read, and what is refused in words that keep the hashes to themselves."""

import subprocess
from pathlib import Path

import bcrypt
import pytest

from meshsat.errors import ConfigError, InvalidInputError
from meshsat.registry.htpasswd import load_users, parse_htpasswd_untrusted, stamp_of
from tests.htpasswd import write_htpasswd
from tests.tools import require_tool

GOOD = "$2y$04$O7kwgcrYrtGsReGiq4r5qujO4SpZQ4OfMhQIDuhwUDRONxZpw2L9y"
"""Of `secret`."""


@pytest.mark.parametrize("version", ["2a", "2b", "2y"])
def test_all_of_bcrypts_versions_are_read(version: str) -> None:
    hash_ = f"${version}${GOOD[4:]}"
    users = parse_htpasswd_untrusted(f"# people\n\nada:{hash_}\r\nbob.b:{hash_}\n".encode())
    assert users == {"ada": hash_.encode(), "bob.b": hash_.encode()}
    assert bcrypt.checkpw(b"secret", users["ada"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no user in it; make it with `htpasswd -B`"),
        ("# nobody\n", "no user in it"),
        ("ada\n", "line 1 is not NAME:HASH"),
        (f":{GOOD}\n", "line 1 is not NAME:HASH"),
        (f"{'a' * 256}:{GOOD}\n", "line 1 is not NAME:HASH"),
        (f"a\tb:{GOOD}\n", "line 1 is not NAME:HASH"),
        (f"ada:{GOOD}\nbob:$apr1$x$y\n", "line 2: the hash of 'bob' is not bcrypt"),
        ("ada:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n", "line 1: the hash of 'ada' is not bcrypt"),
        ("ada:password\n", "line 1: the hash of 'ada' is not bcrypt"),
        (f"ada:{GOOD}extra\n", "line 1: the hash of 'ada' is not bcrypt"),
        (f"ada:{GOOD.replace('$04$', '$31$')}\n", "line 1: the hash of 'ada' has a cost that is not 4 to 15"),
        (f"ada:{GOOD.replace('$04$', '$03$')}\n", "line 1: the hash of 'ada' has a cost that is not 4 to 15"),
        (f"ada:{GOOD}\nada:{GOOD}\n", "line 2: 'ada' is there twice"),
        (f"*:{GOOD}\n", r"line 1: no user can be called '\*'"),
        (f"anonymous:{GOOD}\n", "line 1: no user can be called 'anonymous'"),
        (b"\xff:x\n", "not UTF-8"),
        ("#" * (1024 * 1024 + 1), "longer than"),
        ("".join(f"u{n}:{GOOD}\n" for n in range(10_001)), "more than 10000 users"),
    ],
)
def test_a_wrong_file_is_told_without_its_hashes(text: str | bytes, told: str) -> None:
    raw = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(InvalidInputError, match=told) as fault:
        parse_htpasswd_untrusted(raw)
    assert "$2" not in str(fault.value)
    assert "apr1" not in str(fault.value)
    assert "password\n" not in str(fault.value)


@pytest.mark.parametrize("mode", [0o644, 0o602, 0o666])
def test_a_file_that_is_open_to_everybody_is_refused(tmp_path: Path, mode: int) -> None:
    path = write_htpasswd(tmp_path / "users", {"ada": "secret"})
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"open to everybody .mode {mode:o}.; run: chmod 640 {path}"):
        load_users(path)


def test_a_file_is_read_and_its_changes_show(tmp_path: Path) -> None:
    path = write_htpasswd(tmp_path / "users", {"ada": "secret"})
    users = load_users(path)
    assert list(users.hashes) == ["ada"]
    assert "$2y" not in repr(users)
    assert stamp_of(path) == users.stamp
    path.chmod(0o600)
    assert stamp_of(path) != users.stamp
    path.unlink()
    assert stamp_of(path) is None


def test_a_file_that_is_not_there_or_not_good_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"users cannot be read: No such file or directory; make it with"):
        load_users(tmp_path / "users")
    path = tmp_path / "wrong"
    path.write_text("ada:secret")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=f"registry.auth.htpasswd: {path}: line 1: the hash of 'ada'"):
        load_users(path)


def test_what_apaches_own_tool_writes_is_read(tmp_path: Path) -> None:
    require_tool("htpasswd")
    done = subprocess.run(
        ["htpasswd", "-nbB", "ada", "secret"], capture_output=True, check=True, timeout=20
    )  # fmt: skip
    users = parse_htpasswd_untrusted(done.stdout)
    assert bcrypt.checkpw(b"secret", users["ada"])
