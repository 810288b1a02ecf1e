import base64
from dataclasses import replace

import cbor2
import pytest

from meshsat.trust.envelope import seal
from meshsat.trust.keys import NodeKey
from meshsat.trust.passes import DAY, ENROLLER_LIFETIME, NODE, Issuer
from meshsat.trust.revocations import Revocations, revoke
from meshsat.trust.tokens import (
    CONTEXT,
    PREFIX,
    USES_LIMIT,
    Grant,
    TokenError,
    TokenFault,
    make,
    parse_untrusted,
)
from tests.fleet import Fleet

NOW = 1_800_000_000.0
ID = bytes(range(16))
GRANT = Grant("shop-7", frozenset({NODE}), 3, NOW + DAY, ("10.0.0.1:4701", "[fd00::1]:4701"))


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet(now=NOW)


def test_what_was_put_in_comes_out(fleet: Fleet) -> None:
    token = parse_untrusted(make(fleet.enroller, fleet.root.certificate, GRANT, ID))
    assert (token.id, token.fleet, token.root, token.grant) == (ID, fleet.id, fleet.root.certificate, GRANT)
    assert token.author == fleet.enroller.key.peer_id
    token.verify(fleet.root.certificate, NOW)


def test_white_space_around_it_is_nothing(fleet: Fleet) -> None:
    text = make(fleet.enroller, fleet.root.certificate, GRANT, ID)
    assert parse_untrusted(f"  {text}\n").grant == GRANT


def test_a_token_is_one_word_that_shells_leave_alone(fleet: Fleet) -> None:
    text = make(fleet.enroller, fleet.root.certificate, GRANT, ID)
    assert text.replace("-", "").replace("_", "").isalnum()
    assert len(text) < 2500


def test_its_secrets_are_not_shown(fleet: Fleet) -> None:
    token = parse_untrusted(make(fleet.enroller, fleet.root.certificate, GRANT, ID))
    assert str(token.root) not in repr(token)


@pytest.mark.parametrize(
    ("grant", "now", "reason"),
    [
        (GRANT, NOW + DAY + 1, TokenFault.EXPIRED),
        (
            replace(GRANT, expires=NOW + 9 * ENROLLER_LIFETIME),
            NOW + ENROLLER_LIFETIME + 1,
            TokenFault.EXPIRED,
        ),
    ],
)
def test_too_late(fleet: Fleet, grant: Grant, now: float, reason: TokenFault) -> None:
    token = parse_untrusted(make(fleet.enroller, fleet.root.certificate, grant, ID))
    with pytest.raises(TokenError) as caught:
        token.verify(fleet.root.certificate, now)
    assert caught.value.reason is reason


def test_whose_word_it_is_not(fleet: Fleet) -> None:
    other, member = Fleet(now=NOW), fleet.member("member")
    root = fleet.root.certificate
    mallory = NodeKey.generate()
    texts = [
        make(other.enroller, other.root.certificate, GRANT, ID),
        make(other.enroller, root, GRANT, ID),
        make(Issuer(member.key, member.chain[0]), root, GRANT, ID),
        make(Issuer(mallory, fleet.enroller.certificate), root, GRANT, ID),
    ]
    for text in texts:
        with pytest.raises(TokenError) as caught:
            parse_untrusted(text).verify(root, NOW)
        assert caught.value.reason is TokenFault.FOREIGN


def test_the_root_itself_may_invite(fleet: Fleet) -> None:
    parse_untrusted(make(fleet.root, fleet.root.certificate, GRANT, ID)).verify(fleet.root.certificate, NOW)


def encode(fleet: Fleet, fields: object) -> str:
    parts = [seal(fleet.enroller.key, CONTEXT, cbor2.dumps(fields)), fleet.enroller.certificate]
    return PREFIX + base64.urlsafe_b64encode(cbor2.dumps(parts)).decode().rstrip("=")


def test_damage_is_told(fleet: Fleet) -> None:
    text = make(fleet.enroller, fleet.root.certificate, GRANT, ID)
    changed = text[:200] + ("A" if text[200] != "A" else "B") + text[201:]
    for bad in (
        "",
        "join",
        PREFIX,
        text[: len(text) // 2],
        text + "A" * 20_000,
        changed,
        text.replace(PREFIX, ""),
        PREFIX + "é",
        PREFIX + base64.urlsafe_b64encode(cbor2.dumps([1, 2])).decode(),
        PREFIX + base64.urlsafe_b64encode(cbor2.dumps([b"1", b"2"])).decode(),
    ):
        with pytest.raises(TokenError) as caught:
            parse_untrusted(bad)
        assert caught.value.reason is TokenFault.MALFORMED
        assert text[40:60] not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        (0, 1),
        (1, b"short"),
        (2, b"no certificate"),
        (3, "no/site"),
        (4, []),
        (4, ["King"]),
        (4, ["r" * 33]),
        (4, [str(number) for number in range(9)]),
        (4, [["node"]]),
        (5, 0),
        (5, USES_LIMIT + 1),
        (5, True),
        (6, -1),
        (6, 1 << 41),
        (6, 1.5),
        (7, ["a"] * 17),
        (7, ["a" * 129]),
        (7, [1]),
        (8, -1),
        (8, 1 << 41),
        (9, 1),
    ],
)
def test_fields_are_bounded(fleet: Fleet, change: tuple[int, object]) -> None:
    fields: list[object] = [2, ID, fleet.root.certificate, "hq", ["node"], 1, int(NOW), [], int(NOW), False]
    assert parse_untrusted(encode(fleet, fields)).grant.site == "hq"
    fields[change[0]] = change[1]
    with pytest.raises(TokenError):
        parse_untrusted(encode(fleet, fields))
    with pytest.raises(TokenError):
        parse_untrusted(encode(fleet, fields[:-1]))


def test_an_enroller_of_one_site_lets_nobody_in_elsewhere(fleet: Fleet) -> None:
    boss, root = fleet.member("boss", enroller=True, right="berlin"), fleet.root.certificate
    assert boss.issuer is not None
    parse_untrusted(make(boss.issuer, root, replace(GRANT, site="berlin"), ID)).verify(root, NOW)
    with pytest.raises(TokenError, match="at that site") as caught:
        parse_untrusted(make(boss.issuer, root, replace(GRANT, site="hq"), ID)).verify(root, NOW)
    assert caught.value.reason is TokenFault.FOREIGN


@pytest.mark.parametrize("issued", [True, False])
def test_tokens_of_whoever_is_revoked_are_worth_nothing(fleet: Fleet, issued: bool) -> None:
    root = fleet.root.certificate
    known = Revocations(root)
    known.take(
        revoke(
            fleet.root,
            root,
            peer=fleet.enroller.key.peer_id,
            site="hq",
            at=NOW,
            until=NOW + DAY,
            issued=issued,
        )
    )
    for made, good in ((NOW - 1, not issued), (NOW + 1, False)):
        token = parse_untrusted(make(fleet.enroller, root, replace(GRANT, made=made), ID))
        if good:
            token.verify(root, NOW, known)
        else:
            with pytest.raises(TokenError, match="author was revoked") as caught:
                token.verify(root, NOW, known)
            assert caught.value.reason is TokenFault.REVOKED


def test_tokens_for_a_site_from_before_it_was_revoked_are_worth_nothing(fleet: Fleet) -> None:
    root = fleet.root.certificate
    known = Revocations(root)
    known.take(revoke(fleet.root, root, peer=None, site=GRANT.site, at=NOW, until=NOW + DAY))
    old = parse_untrusted(make(fleet.enroller, root, replace(GRANT, made=NOW), ID))
    with pytest.raises(TokenError, match="site was revoked"):
        old.verify(root, NOW, known)
    parse_untrusted(make(fleet.enroller, root, replace(GRANT, made=NOW + 1), ID)).verify(root, NOW, known)


def test_a_grant_that_could_not_be_read_back_is_not_made(fleet: Fleet) -> None:
    for bad in (replace(GRANT, uses=0), replace(GRANT, site="a b"), replace(GRANT, addresses=("x" * 200,))):
        with pytest.raises(TokenError):
            make(fleet.enroller, fleet.root.certificate, bad, ID)
