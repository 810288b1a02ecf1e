"""The vault on a real disk: what opens, what is told when it does not, and that nothing is lost half-way."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshsat.errors import ConfigError, InvalidInputError
from meshsat.vault import vault as module
from meshsat.vault.machine_keys import FILE, KEY_FILE, SYSTEMD, VaultError
from meshsat.vault.vault import Login, Vault, as_json, parse_login_untrusted

SECRET = "correct horse battery staple"
NOW = 1_800_000_000.0


def vault_in(directory: Path, **environ: str) -> Vault:
    return Vault(directory, environ, lambda: NOW)


def systemd(directory: Path, key: bytes, old: bytes | None = None) -> dict[str, str]:
    directory.mkdir(exist_ok=True)
    (directory / "meshsat.key").write_bytes(key)
    if old is not None:
        (directory / "meshsat.key.old").write_bytes(old)
    return {"CREDENTIALS_DIRECTORY": str(directory)}


def test_a_login_is_kept_found_by_another_process_and_forgotten(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    assert vault.get("reg.test") is None
    vault.put("Reg.test", "robot$train", SECRET)
    assert vault_in(tmp_path).get("reg.test") == Login("robot$train", SECRET, NOW)
    assert vault.get("reg.test:443") is None
    vault.put("reg.test", "robot$train", "another")
    found = vault.get("reg.test")
    assert found is not None
    assert found.secret == "another"
    assert vault.forget("reg.test")
    assert not vault.forget("reg.test")
    assert vault.get("reg.test") is None


def test_what_is_on_the_disk_is_for_its_owner_and_tells_nothing(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    vault.put("reg.test", "robot$train", SECRET)
    vault.put("[::1]:5000", "bob", SECRET)
    assert vault.directory.stat().st_mode & 0o777 == 0o700
    for path in vault.directory.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        content = path.read_bytes()
        assert SECRET.encode() not in content
        assert b"robot" not in content


def test_a_list_shows_no_secret(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    vault.put("b.test", "bob", SECRET)
    vault.put("a.test", "ada", SECRET)
    told = as_json(vault.key_source, vault.logins())
    assert told["key_source"] == FILE
    assert [(login["registry"], login["username"], login["since"]) for login in told["logins"]] == [
        ("a.test", "ada", NOW),
        ("b.test", "bob", NOW),
    ]
    assert SECRET not in str(told)
    assert SECRET not in repr(vault.get("a.test"))


@pytest.mark.parametrize(
    ("registry", "username", "secret"),
    [
        ("no registry", "bob", "x"),
        ("../x", "bob", "x"),
        ("", "bob", "x"),
        ("reg.test", "", "x"),
        ("reg.test", "b:b", "x"),
        ("reg.test", "b\nb", "x"),
        ("reg.test", "b" * 257, "x"),
        ("reg.test", "bob", ""),
        ("reg.test", "bob", "hunter2\nhunter2"),
        ("reg.test", "bob", "hunter2\0"),
        ("reg.test", "bob", "hunter2\ud800"),
        ("reg.test", "bob", "hunter2" * 3000),
        ("reg.test", "bob", 7),
    ],
)
def test_what_no_login_can_be(tmp_path: Path, registry: str, username: str, secret: Any) -> None:
    with pytest.raises(InvalidInputError) as refused:
        vault_in(tmp_path).put(registry, username, secret)
    assert "hunter2" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_renamed_for_another_registry_does_not_open(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    vault.put("reg.test", "bob", SECRET)
    (vault.directory / "reg.test.sealed").rename(vault.directory / "evil.test.sealed")
    with pytest.raises(VaultError, match="sealed for something else"):
        vault.get("evil.test")


def test_a_lost_key_is_told_for_each_login_and_mended_by_logging_in(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    vault.put("a.test", "ada", SECRET)
    vault.put("b.test", "bob", SECRET)
    assert vault.problems() == []
    (vault.directory / KEY_FILE).unlink()
    with pytest.raises(VaultError, match=r"a\.test cannot be opened: .*meshsat login a\.test"):
        vault.get("a.test")
    assert len(vault.problems()) == 2
    vault.put("a.test", "ada", SECRET)
    assert vault.get("a.test") == Login("ada", SECRET, NOW)
    (left,) = vault.problems()
    assert "b.test" in left
    assert [(login.registry, login.username) for login in vault.logins()] == [
        ("a.test", "ada"),
        ("b.test", None),
    ]


def test_a_file_full_of_rubbish_costs_one_login(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    vault.put("a.test", "ada", SECRET)
    vault.put("b.test", "bob", SECRET)
    (vault.directory / "a.test.sealed").write_bytes(os.urandom(200))
    (vault.directory / "c.test.sealed").mkdir()
    assert vault.get("b.test") is not None
    assert [login.problem is None for login in vault.logins()] == [False, True, False]


def test_the_stamp_tells_of_what_another_process_changed(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    before = vault.stamp()
    vault.put("a.test", "ada", SECRET)
    own = vault.stamp()
    assert own != before
    time.sleep(0.01)  # the file system's clock has ticks
    vault_in(tmp_path).put("b.test", "bob", SECRET)
    assert vault.stamp() != own


def test_a_rotation_has_another_key_and_the_same_logins(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    vault.put("a.test", "ada", SECRET)
    vault.put("b.test", "bob", SECRET)
    key, sealed = (vault.directory / KEY_FILE).read_bytes(), (vault.directory / "a.test.sealed").read_bytes()
    assert vault.rotate().resealed == 2
    assert (vault.directory / KEY_FILE).read_bytes() != key
    assert (vault.directory / "a.test.sealed").read_bytes() != sealed
    assert vault.get("a.test") == Login("ada", SECRET, NOW)
    assert key not in b"".join(path.read_bytes() for path in vault.directory.iterdir())


def test_a_rotation_leaves_what_it_cannot_open_and_says_so(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    vault.put("a.test", "ada", SECRET)
    (vault.directory / KEY_FILE).unlink()
    vault.put("b.test", "bob", SECRET)
    assert (done := vault.rotate()).lost == ("a.test",)
    assert done.resealed == 1
    assert (vault.directory / "a.test.sealed").exists()


def test_logins_move_to_systemds_key_and_to_the_next_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    vault_in(data).put("a.test", "ada", SECRET)
    first = vault_in(data, **systemd(tmp_path / "run", b"1" * 32))
    assert first.key_source == SYSTEMD
    assert first.get("a.test") == Login("ada", SECRET, NOW)
    assert first.rotate().resealed == 1
    assert not (first.directory / KEY_FILE).exists()
    with pytest.raises(VaultError):
        vault_in(data).get("a.test")
    second = vault_in(data, **systemd(tmp_path / "run", b"2" * 32, old=b"1" * 32))
    assert second.rotate().lost == ()
    (tmp_path / "run" / "meshsat.key.old").unlink()
    assert second.get("a.test") == Login("ada", SECRET, NOW)


class Crash(BaseException):
    """The process ends here."""


def crashing(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """End at the `at`-th thing that is done to the disk, before it is done; nothing is done after it."""
    count = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count >= at:
                raise Crash
            return real(*args, **kwargs)

        return call

    for owner, name in ((tempfile, "mkstemp"), (os, "fsync"), (Path, "replace"), (Path, "unlink")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


def test_a_rotation_that_ends_at_any_step_loses_no_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logins = {f"{name}.test": name for name in ("a", "b", "c")}
    ended = 0
    for at in range(1, 100):
        data = tmp_path / str(at)
        vault = vault_in(data)
        for registry, name in logins.items():
            vault.put(registry, name, SECRET)
        with monkeypatch.context() as patch:
            crashing(patch, at)
            try:
                vault.rotate()
            except Crash:
                ended += 1
            else:
                break
        after = vault_in(data)
        assert {registry: after.get(registry) for registry in logins} == {
            registry: Login(name, SECRET, NOW) for registry, name in logins.items()
        }
        assert after.rotate().resealed == len(logins)
        assert sorted(path.name for path in after.directory.iterdir()) == sorted(
            [*(f"{registry}.sealed" for registry in logins), KEY_FILE, "lock"]
        )
        assert after.problems() == []
    assert ended > 10


ROTATE = """
import sys
from pathlib import Path
from meshsat.vault.vault import Vault
vault = Vault(Path(sys.argv[1]), {})
print("on", flush=True)
while True:
    vault.rotate()
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_of_rotations(tmp_path: Path) -> None:
    vault = vault_in(tmp_path)
    for name in "abcd":
        vault.put(f"{name}.test", name, SECRET)
    chance = random.Random(7)
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", ROTATE, tmp_path], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.random() / 5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for name in "abcd":
            assert vault.get(f"{name}.test") == Login(name, SECRET, NOW)
    assert vault.rotate().lost == ()


def test_who_changes_it_waits_for_the_other_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_LIMIT", 0.1)
    one, other = vault_in(tmp_path), vault_in(tmp_path)
    with one._lock(), pytest.raises(VaultError, match="another process"):
        other.put("a.test", "ada", SECRET)
    other.put("a.test", "ada", SECRET)


def test_a_vault_has_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOGINS", 2)
    vault = vault_in(tmp_path)
    vault.put("a.test", "ada", SECRET)
    vault.put("b.test", "bob", SECRET)
    vault.put("a.test", "ada", "another")
    with pytest.raises(VaultError, match="the most"):
        vault.put("c.test", "cem", SECRET)


def test_root_does_not_write_what_the_nodes_user_could_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    if tmp_path.stat().st_uid == 0:
        os.chown(tmp_path, 12345, 12345)
    with pytest.raises(ConfigError, match="another user's"):
        vault_in(tmp_path).put("a.test", "ada", SECRET)


def test_a_disk_that_is_full_is_told_and_leaves_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = vault_in(tmp_path)
    vault.put("a.test", "ada", SECRET)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        for change in (lambda: vault.put("a.test", "ada", "another"), vault.rotate):
            with pytest.raises(ConfigError, match="No space left"):
                change()
    assert vault.get("a.test") == Login("ada", SECRET, NOW)


def test_what_was_sealed_is_checked_when_it_is_read() -> None:
    good = b'{"username": "bob", "secret": "hunter2", "since": 1}'
    assert parse_login_untrusted(good) == Login("bob", "hunter2", 1.0)
    for raw in (
        b"",
        b"[]",
        b"{}",
        good[:-1],
        good.replace(b"1", b'"x"'),
        good.replace(b"1", b"-1"),
        b"hunter2",
    ):
        with pytest.raises(InvalidInputError) as refused:
            parse_login_untrusted(raw)
        assert "hunter2" not in str(refused.value)
