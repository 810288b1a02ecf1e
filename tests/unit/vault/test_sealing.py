import pytest

from meshsat.vault.sealing import (
    MAGIC,
    SEALED_LIMIT,
    MachineKey,
    UnsealError,
    key_id_untrusted,
    open_untrusted,
    seal,
)

KEY = MachineKey(b"k" * 32, "test")
OTHER = MachineKey(b"o" * 32, "test")


def test_what_was_sealed_opens_with_its_key_its_purpose_and_its_name() -> None:
    sealed = seal(KEY, "login", "reg.test", b"hunter2")
    assert open_untrusted(KEY, "login", "reg.test", sealed) == b"hunter2"
    assert b"hunter2" not in sealed
    assert b"reg.test" not in sealed
    assert key_id_untrusted(sealed) == KEY.id != OTHER.id


@pytest.mark.parametrize(
    ("key", "purpose", "name"),
    [
        (OTHER, "login", "reg.test"),
        (KEY, "logout", "reg.test"),
        (KEY, "login", "evil.test"),
        (KEY, "loginr", "eg.test"),
        (KEY, "", "loginreg.test"),
    ],
)
def test_nothing_else_opens_it(key: MachineKey, purpose: str, name: str) -> None:
    with pytest.raises(UnsealError) as refused:
        open_untrusted(key, purpose, name, seal(KEY, "login", "reg.test", b"hunter2"))
    assert "hunter2" not in str(refused.value)


def test_every_bit_of_it_counts() -> None:
    sealed = seal(KEY, "login", "reg.test", b"hunter2")
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(UnsealError):
            open_untrusted(KEY, "login", "reg.test", bytes(changed))
    for length in range(len(sealed)):
        with pytest.raises(UnsealError):
            open_untrusted(KEY, "login", "reg.test", sealed[:length])


def test_no_two_seals_are_alike() -> None:
    seals = {seal(KEY, "login", "reg.test", b"hunter2")[len(MAGIC) + 8 :] for _ in range(100)}
    assert len({one[:16] for one in seals}) == len({one[16:28] for one in seals}) == len(seals) == 100


def test_a_secret_has_its_limit_and_a_key_no_repr() -> None:
    with pytest.raises(UnsealError, match="too long"):
        seal(KEY, "login", "reg.test", bytes(SEALED_LIMIT))
    assert "kkkk" not in repr(KEY)
    assert KEY.id not in KEY.secret
