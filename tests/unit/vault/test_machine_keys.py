from pathlib import Path

import pytest

from meshsat.errors import InvalidInputError
from meshsat.vault.machine_keys import (
    FILE,
    KEY_FILE,
    NEXT_KEY_FILE,
    SYSTEMD,
    MachineKeys,
    VaultError,
    parse_key_file_untrusted,
)


def credentials(directory: Path, **files: bytes) -> dict[str, str]:
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        (directory / name.replace("_", ".")).write_bytes(content)
    return {"CREDENTIALS_DIRECTORY": str(directory)}


def test_a_key_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    keys = MachineKeys(tmp_path / "secrets", {})
    assert (keys.source, keys.sealing(), keys.opening()) == (FILE, None, [])
    made = keys.make()
    assert keys.sealing() == made
    assert len(made.secret) == 32
    assert keys.place.stat().st_mode & 0o777 == 0o600
    assert made.secret.hex() not in repr(made)


def test_systemds_key_comes_first_and_the_others_still_open(tmp_path: Path) -> None:
    directory = tmp_path / "secrets"
    of_file = MachineKeys(directory, {}).make()
    environ = credentials(tmp_path / "run", meshsat_key=b"s" * 32, meshsat_key_old=b"p" * 40)
    keys = MachineKeys(directory, environ)
    sealing = keys.sealing()
    assert keys.source == SYSTEMD
    assert sealing is not None
    assert sealing.secret == b"s" * 32
    assert [key.secret for key in keys.opening()] == [b"s" * 32, b"p" * 40, of_file.secret]


def test_a_unit_without_our_credential_is_as_none(tmp_path: Path) -> None:
    keys = MachineKeys(tmp_path / "secrets", credentials(tmp_path / "run", other=b"x"))
    assert keys.source == FILE


@pytest.mark.parametrize("content", [b"", b"short", bytes(4097)])
def test_a_credential_that_is_no_key_is_refused_and_not_passed_over(tmp_path: Path, content: bytes) -> None:
    keys = MachineKeys(tmp_path / "secrets", credentials(tmp_path / "run", meshsat_key=content))
    with pytest.raises(VaultError, match="a machine key has 32 to 4096"):
        keys.sealing()


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    keys = MachineKeys(tmp_path / "secrets", {})
    keys.make()
    keys.place.chmod(0o640)
    with pytest.raises(VaultError, match="chmod 600"):
        keys.sealing()


def test_a_key_file_that_is_none(tmp_path: Path) -> None:
    keys = MachineKeys(tmp_path / "secrets", {})
    keys.make()
    keys.place.write_bytes(b"hunter2")
    with pytest.raises(VaultError, match="remove it and log in") as told:
        keys.opening()
    assert "hunter2" not in str(told.value)


def test_an_interrupted_rotation_goes_on_with_its_key(tmp_path: Path) -> None:
    keys = MachineKeys(tmp_path / "secrets", {})
    keys.make()
    following = keys.next()
    assert keys.next() == following
    assert following in keys.opening()
    keys.promote()
    assert keys.sealing() == following
    assert not (keys.directory / NEXT_KEY_FILE).exists()


def test_key_files_go_where_systemd_gives_the_key(tmp_path: Path) -> None:
    keys = MachineKeys(tmp_path / "secrets", {})
    keys.make()
    keys.next()
    keys.drop_files()
    assert list(keys.directory.iterdir()) == []


def test_the_form_of_a_key_file() -> None:
    assert parse_key_file_untrusted(b"ab" * 32 + b"\n") == b"\xab" * 32
    for raw in (b"", b"ab" * 31, b"AB" * 32, b"ab" * 32 + b"\n\n", b" " + b"ab" * 32):
        with pytest.raises(InvalidInputError):
            parse_key_file_untrusted(raw)
    assert KEY_FILE != NEXT_KEY_FILE
