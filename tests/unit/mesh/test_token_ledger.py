import json
import math
from pathlib import Path

import pytest

from meshsat.errors import ConfigError, DeniedError, InvalidInputError
from meshsat.mesh.token_ledger import FILE, TokenLedger
from meshsat.protocol.token_use import TokenUse, parse_token_use_untrusted
from meshsat.trust import tokens
from meshsat.trust.keys import NodeKey
from meshsat.trust.passes import DAY, NODE
from meshsat.trust.tokens import Grant, Token
from tests.fleet import Fleet

NOW = 1_800_000_000.0
HOUR = 3600.0


def make(fleet: Fleet, number: int = 1, uses: int = 2) -> Token:
    grant = Grant("hq", frozenset({NODE}), uses, NOW + HOUR)
    return tokens.parse_untrusted(
        tokens.make(fleet.enroller, fleet.root.certificate, grant, bytes([number]) * 16)
    )


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(now=NOW)


def test_merge_is_a_union(fleet: Fleet) -> None:
    token = make(fleet)
    joiners = [NodeKey.generate().peer_id for _ in range(3)]
    one, other = TokenLedger(None), TokenLedger(None)
    one.admit(token, joiners[0], NOW)
    other.admit(token, joiners[1], NOW)
    assert one.merge(other.records(), NOW) == 1
    assert one.merge(other.records(), NOW) == 0
    assert other.merge(one.records(), NOW) == 1
    assert one.records() == other.records()
    assert one.uses(token.id) == 2
    with pytest.raises(DeniedError):
        one.admit(token, joiners[2], NOW)


def test_tokens_are_counted_apart(fleet: Fleet) -> None:
    ledger = TokenLedger(None)
    joiner = NodeKey.generate().peer_id
    for number in (1, 2):
        ledger.admit(make(fleet, number, uses=1), joiner, NOW)
    assert ledger.uses(b"\1" * 16) == ledger.uses(b"\2" * 16) == 1


async def test_the_file_comes_back_and_the_old_is_forgotten(fleet: Fleet, tmp_path: Path) -> None:
    ledger = TokenLedger(tmp_path)
    token, joiner = make(fleet), NodeKey.generate().peer_id
    ledger.admit(token, joiner, NOW)
    await ledger.save()
    again = TokenLedger(tmp_path)
    assert again.records() == [TokenUse(token.id.hex(), joiner, NOW, NOW + HOUR)]
    assert again.merge([], NOW + HOUR + DAY) == 0
    assert again.records() == []
    assert again.merge(ledger.records(), NOW + HOUR + DAY) == 0


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"token": "00"}]', "[" * 100_000])
def test_a_damaged_file_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ConfigError, match="damaged"):
        TokenLedger(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"token": "zz" * 16},
        {"token": "00"},
        {"token": None},
        {"joiner": "nobody"},
        {"joiner": 3},
        {"at": -1},
        {"at": True},
        {"at": math.nan},
        {"expires": math.inf},
        {"expires": "soon"},
        {"more": 1},
    ],
)
def test_uses_from_outside_are_checked(change: dict[str, object]) -> None:
    value = {"token": "00" * 16, "joiner": NodeKey.generate().peer_id, "at": NOW, "expires": NOW}
    assert json.loads(json.dumps(value)) == value
    parse_token_use_untrusted(value)
    with pytest.raises(InvalidInputError):
        parse_token_use_untrusted(value | change)
