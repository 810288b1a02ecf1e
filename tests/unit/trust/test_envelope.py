"""What is sealed opens as it was; whatever is changed does not open."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsat.trust import envelope
from meshsat.trust.envelope import EnvelopeError
from meshsat.trust.keys import NodeKey

KEY = NodeKey.generate()


@given(st.binary(max_size=200), st.text(max_size=20))
def test_opens_as_it_was_sealed(payload: bytes, context: str) -> None:
    opened = envelope.open_untrusted(envelope.seal(KEY, context, payload), context)
    assert (opened.author, opened.payload) == (KEY.peer_id, payload)


def test_a_seal_is_good_for_its_context_only() -> None:
    sealed = envelope.seal(KEY, "one", b"payload")
    with pytest.raises(EnvelopeError, match="for this purpose"):
        envelope.open_untrusted(sealed, "other")


def test_a_changed_payload_or_author_does_not_open() -> None:
    author, payload, signature = cbor2.loads(envelope.seal(KEY, "context", b"payload"))
    other = NodeKey.generate().peer_id
    for forged in ([author, b"other", signature], [other, payload, signature], [author, payload, bytes(64)]):
        with pytest.raises(EnvelopeError):
            envelope.open_untrusted(cbor2.dumps(forged), "context")


@given(st.binary(max_size=300))
def test_anything_else_is_refused_with_the_one_error(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        envelope.open_untrusted(data, "context")


def test_an_oversized_envelope_is_not_even_parsed() -> None:
    with pytest.raises(EnvelopeError, match="over the limit"):
        envelope.open_untrusted(bytes(envelope.SIZE_LIMIT + 1), "context")
