"""What peers gossip and what the disk kept of it: a value or the documented error, and no more."""

import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import cbor2
from hypothesis import given
from hypothesis import strategies as st

from meshsat.mesh.anti_entropy import Message, MessageError, decode_message_untrusted, encode_message
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.protocol.gossip import CONTEXT, ImageRecord, seal
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
SUMMARY = st.lists(st.one_of(VALUE, st.tuples(SCALAR, SCALAR, SCALAR, st.floats()).map(list)), max_size=4)
USE = st.fixed_dictionaries(
    {"token": st.one_of(SCALAR, st.just("0" * 32)), "joiner": SCALAR, "at": SCALAR, "expires": SCALAR}
)
MESSAGE = st.tuples(
    SUMMARY,
    st.lists(st.one_of(VALUE, st.binary(max_size=50)), max_size=4),
    st.lists(st.one_of(USE, VALUE), max_size=3),
).map(list)


def read_or_refuse(data: bytes) -> None:
    with suppress(MessageError):
        message = decode_message_untrusted(data)
        assert isinstance(message, Message)
        again = encode_message(message.summary, message.records, message.uses)
        assert decode_message_untrusted(again[struct.calcsize("!I") :]) == message


@given(st.binary(max_size=300))
def test_bytes_are_a_message_or_refused(data: bytes) -> None:
    read_or_refuse(data)


@given(st.one_of(MESSAGE, VALUE), st.data())
def test_what_is_nearly_a_message_is_one_or_refused(items: Any, data: st.DataObject) -> None:
    encoded = cbor2.dumps(items)
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

    def all_tags(self) -> list[TagRecord]:
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
