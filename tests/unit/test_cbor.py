import time
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import cbor2
import pytest

from meshsat.cbor import DEPTH, decode_cbor_untrusted
from meshsat.errors import InvalidInputError


@pytest.mark.parametrize("value", [0, -1, 1.5, "text", b"bytes", None, True, [1, [2, ["three"]]], {"a": [1]}])
def test_plain_values_come_out_as_they_went_in(value: object) -> None:
    assert decode_cbor_untrusted(cbor2.dumps(value)) == value


@pytest.mark.parametrize(
    "value",
    [
        10**400,
        Decimal("1.5"),
        Fraction(1, 3),
        UUID(int=1),
        {1: 2},
        {(1,): 2},
        {1, 2},
        cbor2.CBORTag(35, "a+"),
        cbor2.CBORTag(6, 0),
        [cbor2.CBORTag(7777, [])],
    ],
)
def test_what_costs_more_than_it_weighs_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError):
        decode_cbor_untrusted(cbor2.dumps(value))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"\x01\x01",
        b"\x80" + b"\x00" * 9000,
        b"\x82\x01",
        b"\x9f\x01\xff",
        b"\x5b" + b"\xff" * 8,
        b"\x61\xff",
    ],
)
def test_what_is_not_cbor_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInputError):
        decode_cbor_untrusted(data)


def test_nesting_is_bounded() -> None:
    assert decode_cbor_untrusted(b"\x81" * DEPTH + b"\x00")
    with pytest.raises(InvalidInputError):
        decode_cbor_untrusted(b"\x81" * (DEPTH + 1) + b"\x00")


def test_colliding_keys_cost_no_time() -> None:
    """Integers hash to themselves, modulo 2**61 - 1: this many that are alike took cbor2 forty seconds."""
    colliding = b"".join(cbor2.dumps(index * (2**61 - 1)) + b"\x00" for index in range(1, 65536))
    before = time.process_time()
    with pytest.raises(InvalidInputError):
        decode_cbor_untrusted(b"\xb9\xff\xff" + colliding)
    assert time.process_time() - before < 1
