"""What the vault and the audit log read from the disk: a value, or the one documented error."""

import json
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshsat.audit.event import NODE, Entry
from meshsat.audit.lines import FIRST_PREV, encode, parse_line_untrusted, readable
from meshsat.errors import InvalidInputError
from meshsat.vault.machine_keys import parse_key_file_untrusted
from meshsat.vault.sealing import MAGIC, MachineKey, UnsealError, key_id_untrusted, open_untrusted, seal
from meshsat.vault.vault import check_login_untrusted, parse_login_untrusted

KEY = MachineKey(b"k" * 32, "test")
SEALED = seal(KEY, "login", "reg.test", b"hunter2")
LINE = encode(Entry(1.0, "node.start", NODE, "a", "success"), 1, FIRST_PREV)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """`good` with a part of it replaced."""
    start = draw(st.integers(0, len(good)))
    stop = draw(st.integers(start, len(good)))
    return good[:start] + draw(st.binary(max_size=40)) + good[stop:]


@given(st.binary(max_size=200) | damaged(SEALED) | st.binary(max_size=100).map(lambda rest: MAGIC + rest))
def test_sealed(raw: bytes) -> None:
    with suppress(UnsealError):
        assert len(key_id_untrusted(raw)) == 8
    with suppress(UnsealError):
        opened = open_untrusted(KEY, "login", "reg.test", raw)
        assert (raw, opened) == (SEALED, b"hunter2")


@given(st.binary(max_size=100) | damaged(b"0a" * 32 + b"\n"))
def test_key_files(raw: bytes) -> None:
    with suppress(InvalidInputError):
        assert len(parse_key_file_untrusted(raw)) == 32


@given(JSON, JSON)
def test_logins(username: Any, secret: Any) -> None:
    with suppress(InvalidInputError):
        login = check_login_untrusted(username, secret, 1.0)
        assert (login.username, login.secret) == (username, secret)
        assert f"{username}:{secret}".encode()


FIELDS = {"username": "bob", "secret": "hunter2", "since": 1}


@given(
    st.binary(max_size=200)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(sorted(FIELDS)), JSON).map(
        lambda changed: json.dumps({**FIELDS, **changed}).encode()
    )
)
def test_kept_logins(raw: bytes) -> None:
    with suppress(InvalidInputError):
        assert parse_login_untrusted(raw).since >= 0


@given(
    st.binary(max_size=200)
    | damaged(LINE)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(sorted(json.loads(LINE))), JSON).map(
        lambda changed: json.dumps({**json.loads(LINE), **changed}).encode()
    )
)
def test_lines_of_the_audit_log(raw: bytes) -> None:
    with suppress(InvalidInputError):
        line = parse_line_untrusted(raw)
        assert line.seq > 0
        assert readable(line).isprintable()
