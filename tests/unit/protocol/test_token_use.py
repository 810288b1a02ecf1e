import cbor2
import pytest

from meshsat.errors import InvalidInputError
from meshsat.protocol import token_use
from meshsat.protocol.sums import leaf_key
from meshsat.protocol.token_use import TokenUse, UseSet, decode_token_use_untrusted, parse_token_use_untrusted
from meshsat.trust.passes import DAY
from tests.brain import UNIX, peer

USE = TokenUse("0" * 32, peer("a"), UNIX, UNIX + 60)


def test_a_use_survives_its_encodings() -> None:
    assert decode_token_use_untrusted(USE.encode()) == USE
    fields = {"token": USE.token, "joiner": USE.joiner, "at": USE.at, "expires": USE.expires}
    assert parse_token_use_untrusted(fields) == USE


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", cbor2.dumps([]), cbor2.dumps(["0" * 32, peer("a"), 1]), cbor2.dumps(["0", "x", 1, 2])],
)
def test_what_is_no_use(data: bytes) -> None:
    with pytest.raises(InvalidInputError):
        decode_token_use_untrusted(data)


def test_uses_are_a_set_that_every_node_keeps_the_same() -> None:
    later = TokenUse(USE.token, USE.joiner, UNIX + 1, UNIX + 60)
    sums = []
    for order in ((USE, later), (later, USE)):
        uses = UseSet()
        assert uses.merge(order[0], UNIX)
        for one in order:
            uses.merge(one, UNIX)
        assert not uses.merge(USE, UNIX)
        assert uses.item(leaf_key(*USE.key)) == USE.encode()
        sums.append(uses.sums.sum(""))
    assert sums[0] == sums[1]
    assert UseSet().item(b"") is None


def test_a_use_is_forgotten_a_day_after_its_end() -> None:
    uses = UseSet()
    uses.merge(USE, UNIX)
    assert not uses.merge(TokenUse("1" * 32, peer("a"), 0.0, 1.0), UNIX)
    assert uses.merge(TokenUse("2" * 32, peer("a"), UNIX, UNIX + 9 * DAY), USE.expires + DAY)
    assert uses.sums.count("") == 1


def test_uses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_use, "LIMIT", 1)
    uses = UseSet()
    assert uses.merge(USE, UNIX)
    assert not uses.merge(TokenUse("1" * 32, peer("a"), UNIX, UNIX + 60), UNIX)
