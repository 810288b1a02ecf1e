"""Everything that the uplink reads from outside: a value, or the one documented error."""

import base64
import json
from contextlib import suppress
from typing import Any

import httpx
from hypothesis import given
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from meshsat.schedule import opening, parse_window_untrusted, parse_zone_untrusted
from meshsat.uplink.accounts import Accounts
from meshsat.uplink.answers import (
    ERROR_TEXT_LIMIT,
    error_text_untrusted,
    is_unmodified_untrusted,
    next_page_untrusted,
    parse_address_untrusted,
    parse_content_range_untrusted,
    parse_length_untrusted,
    parse_retry_after_untrusted,
    redirect_target_untrusted,
)
from meshsat.uplink.auth import parse_challenges_untrusted, parse_token_untrusted, realm_untrusted
from meshsat.uplink.books import parse_books_untrusted
from meshsat.uplink.credentials import parse_docker_config_untrusted, parse_helper_output_untrusted

TEXT = st.text(max_size=80)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def spelled(value: Any) -> bytes:
    return json.dumps(value).encode()


def near(*words: str) -> st.SearchStrategy[str]:
    """Text made mostly of what the grammar is made of."""
    return st.lists(st.sampled_from(words) | st.text(max_size=5), max_size=14).map("".join)


@given(
    st.lists(
        near("Bearer ", "Basic ", 'realm="', '"', ",", "=", " ", "\\", "a", "https://x/", "=="), max_size=4
    )
)
def test_challenges(lines: list[str]) -> None:
    try:
        found = parse_challenges_untrusted(lines)
    except InvalidInputError:
        return
    for challenge in found:
        assert challenge.scheme == challenge.scheme.lower() != ""
        assert all(name == name.lower() != "" for name in challenge.params)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True),
        st.text(st.characters(codec="latin-1"), max_size=20),
        min_size=1,
        max_size=4,
    )
)
def test_challenges_round_trip(params: dict[str, str]) -> None:
    quoted = ", ".join(
        f'{name}="{value}"'
        for name, value in ((n, v.replace("\\", "\\\\").replace('"', '\\"')) for n, v in params.items())
    )
    if "\n" not in quoted:
        assert parse_challenges_untrusted([f"Bearer {quoted}"])[0].params == params


@given(
    near(
        "http",
        "https",
        "://",
        "//",
        "/",
        "[",
        "]",
        ":",
        "@",
        "::1",
        ".",
        "..",
        "%00",
        "?",
        "#",
        "x.test",
        "99999",
    )
)
def test_addresses(text: str) -> None:
    asked = httpx.URL("https://reg.test/v2/")
    for parse in (
        parse_address_untrusted,
        lambda location: redirect_target_untrusted(asked, location),
        lambda realm: realm_untrusted(realm, plain_http=False),
    ):
        try:
            url = parse(text)
        except InvalidInputError:
            continue
        assert url.scheme in ("http", "https")
        assert url.host
        assert not url.userinfo
        assert 1 <= (url.port or 443) <= 65535


@given(near("bytes ", "0", "9", "-", "/", "*", "500", " "))
def test_content_range(text: str) -> None:
    try:
        told = parse_content_range_untrusted(text)
    except InvalidInputError:
        return
    assert 0 <= told.start <= told.stop
    assert told.total is None or told.stop <= told.total


@given(
    near("Sun, ", "06 ", "Nov ", "1994 ", "08:49:37 ", "GMT", "+9999", "0", "9999999", "-"),
    st.floats(0, 1e12),
)
def test_retry_after_and_length(text: str, now: float) -> None:
    with suppress(InvalidInputError):
        assert 0 <= parse_retry_after_untrusted(text, now) <= 86400
    with suppress(InvalidInputError):
        assert parse_length_untrusted(text) >= 0


ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "auth": TEXT | TEXT.map(lambda text: base64.b64encode(text.encode(errors="replace")).decode()) | JSON,
        "username": TEXT | JSON,
        "password": TEXT | JSON,
        "identitytoken": TEXT | JSON,
        "registrytoken": TEXT | JSON,
    },
)
CONFIG = st.fixed_dictionaries(
    {},
    optional={
        "auths": st.dictionaries(near("https://", "/v1/", "/", "x.test", ":"), ENTRY | JSON, max_size=3)
        | JSON,
        "credHelpers": st.dictionaries(TEXT, TEXT | JSON, max_size=3) | JSON,
        "credsStore": TEXT | JSON,
    },
)


@given(st.binary() | JSON.map(spelled) | CONFIG.map(spelled))
def test_docker_config(raw: bytes) -> None:
    try:
        config = parse_docker_config_untrusted(raw)
    except InvalidInputError:
        return
    for credential in config.auths.values():
        assert credential.basic.isascii()
    for name in (*config.helpers.values(), *([config.store] if config.store else [])):
        assert "/" not in name


@given(
    st.binary()
    | JSON.map(spelled)
    | st.fixed_dictionaries({}, optional={"Username": TEXT | JSON, "Secret": TEXT | JSON}).map(spelled)
)
def test_helper_output(raw: bytes) -> None:
    with suppress(InvalidInputError):
        assert parse_helper_output_untrusted(raw).secret


@given(
    st.binary()
    | JSON.map(spelled)
    | st.fixed_dictionaries({"token": TEXT}, optional={"expires_in": JSON, "access_token": JSON}).map(spelled)
)
def test_token(raw: bytes) -> None:
    try:
        token = parse_token_untrusted(raw)
    except InvalidInputError:
        return
    assert token.text.isascii()
    assert not any(c.isspace() for c in token.text)
    assert 0 < token.lifetime <= 86400


@given(
    st.binary()
    | JSON.map(spelled)
    | st.lists(JSON, max_size=2).map(lambda errors: spelled({"errors": errors}))
    | st.fixed_dictionaries({"code": TEXT, "message": TEXT}).map(lambda one: spelled({"errors": [one]}))
)
def test_error_text(raw: bytes) -> None:
    text = error_text_untrusted(raw)
    assert len(text) <= ERROR_TEXT_LIMIT
    assert text.isprintable()


@given(st.none() | near("W/", '"', str(Digest.of(b"")), ","), st.none() | near(str(Digest.of(b"")), " "))
def test_not_modified(etag: str | None, told: str | None) -> None:
    same = is_unmodified_untrusted(etag, told, Digest.of(b""))
    assert same or etag or told


@given(st.lists(near("<", ">", ";", 'rel="next"', "?a=", "/v2/a", "https://x", ","), max_size=3))
def test_next_page(links: list[str]) -> None:
    with suppress(InvalidInputError):
        next_page_untrusted(httpx.URL("https://x/v2/a?n=1"), links)


CRON = near("*", "*/5", "0", "2", "59", "-", ",", " ", "L", "MON", "#1", "JAN", "?", "60", "/0")


@given(
    CRON
    | st.lists(
        st.sampled_from(["*", "0", "*/7", "1-5", "L", "29", "2", "MON#5"]), min_size=5, max_size=5
    ).map(" ".join),
    st.floats(),
    st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Nowhere/Land"]) | TEXT,
)
def test_windows(cron: str, duration: float, timezone: str) -> None:
    try:
        window = parse_window_untrusted(cron, duration, timezone)
    except InvalidInputError:
        return
    found = opening([[window]], 1_800_000_000.0)
    assert found.until is None or found.until > 1_800_000_000.0


@given(TEXT | near("Europe", "/", "Berlin", "..", "\0", "UTC", "posix"))
def test_time_zones(name: str) -> None:
    with suppress(InvalidInputError):
        assert parse_zone_untrusted(name).key == name


@given(
    st.binary(max_size=200)
    | JSON.map(spelled)
    | st.fixed_dictionaries(
        dict.fromkeys(("now", "slots", "reserved", "rate", "accounts"), JSON)
        | {"slots": JSON | st.dictionaries(st.integers().map(str), st.integers())}
    ).map(spelled)
)
def test_books(raw: bytes) -> None:
    with suppress(InvalidInputError):
        now, slots, reserved, rate, _ = parse_books_untrusted(raw)
        assert now >= 0
        assert rate >= 0
        assert min([reserved, *slots.values()]) >= 0


@given(
    st.dictionaries(TEXT, JSON, max_size=3)
    | st.fixed_dictionaries(
        {
            "rows": JSON | st.lists(st.lists(TEXT | st.integers(), max_size=7), max_size=3),
            "ends": JSON | st.dictionaries(st.sampled_from(["day", "month", "year"]), JSON),
            "since": JSON,
        }
    )
)
def test_accounts(kept: dict[str, Any]) -> None:
    accounts = Accounts()
    with suppress(InvalidInputError):
        accounts.restore_untrusted(kept)
        accounts.as_json()
        accounts.roll(1_800_000_000.0)
