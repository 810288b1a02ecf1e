"""What peers gossip and what the disk kept of it: a value or the documented error, and no more."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import cbor2
from hypothesis import given
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.protocol.gossip import CONTEXT, ImageRecord, seal
from meshsat.protocol.members import CONTEXT as MEMBER_CONTEXT
from meshsat.protocol.members import MemberRecord, decode_gone_untrusted, open_member_untrusted
from meshsat.protocol.token_use import decode_token_use_untrusted
from meshsat.records import from_store_untrusted
from meshsat.store.records import TagRecord
from meshsat.store.store import Store
from meshsat.trust import envelope
from meshsat.trust.keys import NodeKey

KEY = NodeKey.generate()
NOW = 1_800_000_000.0
SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.sampled_from(["up.example", "library/pos", "42", str(Digest.of(b"x")), KEY.peer_id, "0" * 32]),
)
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.one_of(st.text(max_size=8), st.integers()), inner, max_size=4),
        st.builds(cbor2.CBORTag, st.sampled_from([0, 1, 2, 28, 29, 30, 35, 256, 258, 55799]), inner),
    ),
    max_leaves=12,
)


def read_or_refuse(data: bytes) -> None:
    """Each of what gossip carries, out of the same bytes."""
    for decode in (open_member_untrusted, decode_gone_untrusted, decode_token_use_untrusted):
        with suppress(InvalidInputError):
            value = decode(data)
            again = value.sealed if isinstance(value, MemberRecord) else value.encode()
            assert decode(again) == value


@given(st.binary(max_size=300))
def test_bytes_are_an_item_or_refused(data: bytes) -> None:
    read_or_refuse(data)


ITEM = st.one_of(
    VALUE,
    st.tuples(SCALAR, SCALAR).map(list),
    st.tuples(SCALAR, SCALAR, SCALAR, SCALAR).map(list),
    st.tuples(SCALAR, st.lists(SCALAR, max_size=3), st.lists(SCALAR, max_size=3), st.booleans()).map(list),
)


@given(ITEM, st.data())
def test_what_is_nearly_an_item_is_one_or_refused(items: Any, data: st.DataObject) -> None:
    for encoded in (cbor2.dumps(items), envelope.seal(KEY, MEMBER_CONTEXT, cbor2.dumps(items))):
        read_or_refuse(encoded)
        at = data.draw(st.integers(0, len(encoded) - 1))
        read_or_refuse(encoded[:at] + data.draw(st.binary(min_size=1, max_size=1)) + encoded[at + 1 :])
        read_or_refuse(encoded[:at])


class Rows:
    """`store.Store`, as far as `from_store_untrusted` looks at it."""

    def __init__(self, sealed: Sequence[bytes]) -> None:
        self._rows = [
            TagRecord(
                "up.example", "library/pos", str(number), Descriptor("m", Digest.of(b"m"), 1), NOW, "", one
            )
            for number, one in enumerate(sealed)
        ]

    def records(self) -> list[TagRecord]:
        return self._rows


GOOD = seal(
    KEY,
    registry="up.example",
    repository="library/pos",
    reference="42",
    media_type="m",
    digest=Digest.of(b"m"),
    size=1,
    resolved_at=NOW,
)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=200),
            VALUE.map(cbor2.dumps),
            st.one_of(VALUE, st.lists(SCALAR, min_size=7, max_size=7)).map(
                lambda items: envelope.seal(KEY, CONTEXT, cbor2.dumps(items))
            ),
            st.integers(0, len(GOOD.sealed) - 1).map(
                lambda at: GOOD.sealed[:at] + b"\0" + GOOD.sealed[at + 1 :]
            ),
        ),
        max_size=4,
    )
)
def test_whatever_the_disk_kept_the_good_records_are_found(kept: list[bytes]) -> None:
    found = from_store_untrusted(cast("Store", Rows([*kept, GOOD.sealed])), NOW)
    assert all(isinstance(record, ImageRecord) for record in found)
    assert found[-1] == GOOD
