"""DSSE: a payload in JSON that several keys sign (secure-systems-lab/dsse, v1).

What is signed is the payload's type and bytes together, so a signature over one kind of document is worth
nothing for another, and nobody has to agree on how JSON is written.

A key is named by its peer id, which is the key: `keyid` is a hint in the standard, and here no two names mean
one key. Of what is signed there is one spelling (`encode_signed`), and signatures that nobody asked for are
no part of it: so that nobody who passes an envelope on can make it look like another.
"""

import base64
import binascii
import json
from collections.abc import Collection
from dataclasses import dataclass

from meshsat.errors import InvalidInputError
from meshsat.oci.fields import parse_object_untrusted, take_objects, take_text
from meshsat.trust.keys import SIGNATURE_LENGTH, PeerId, Signer, Verify, parse_peer_id_untrusted, verify

ENVELOPE_LIMIT = 8192
"""Bytes: what travels by gossip (`protocol.wire.ITEM_LIMIT`)."""
SIGNATURES_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Signed:
    """A payload and who says to have signed it. Nothing is verified yet."""

    payload_type: str
    payload: bytes
    signatures: tuple[tuple[PeerId, bytes], ...] = ()


def parse_signed_untrusted(raw: bytes) -> Signed:
    """Raises `InvalidInputError`. Signatures of keys that are none of ours are passed over."""
    if len(raw) > ENVELOPE_LIMIT:
        raise InvalidInputError(f"an envelope has at most {ENVELOPE_LIMIT} bytes; this has {len(raw)}")
    fields = parse_object_untrusted(raw, "envelope")
    payload_type = take_text(fields, "payloadType", 128)
    if not payload_type:
        raise InvalidInputError("envelope: payloadType is missing")
    entries = take_objects(fields, "signatures")
    if len(entries) > SIGNATURES_LIMIT:
        raise InvalidInputError(f"envelope: more than {SIGNATURES_LIMIT} signatures")
    signatures: list[tuple[PeerId, bytes]] = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise InvalidInputError("envelope: a signature is no object")
        sig = _bytes_untrusted(entry, "sig")
        try:
            key = parse_peer_id_untrusted(entry.get("keyid"))
        except InvalidInputError:
            continue
        if len(sig) == SIGNATURE_LENGTH:
            signatures.append((key, sig))
    return Signed(payload_type, _bytes_untrusted(fields, "payload"), tuple(signatures))


def encode_signed(signed: Signed) -> bytes:
    """The one spelling: no spaces, signatures in the order of their keys."""
    entries = [
        {"keyid": key, "sig": base64.b64encode(sig).decode("ascii")} for key, sig in sorted(signed.signatures)
    ]
    payload = base64.b64encode(signed.payload).decode("ascii")
    envelope = {"payloadType": signed.payload_type, "payload": payload, "signatures": entries}
    return json.dumps(envelope, separators=(",", ":")).encode()


def sign(signed: Signed, key: Signer) -> Signed:
    """The same with one more signature, or one made anew."""
    others = tuple(entry for entry in signed.signatures if entry[0] != key.peer_id)
    mine = (key.peer_id, key.sign(pae(signed.payload_type, signed.payload)))
    return Signed(signed.payload_type, signed.payload, (*others, mine))


def only_valid(signed: Signed, among: Collection[PeerId], check: Verify = verify) -> Signed:
    """The same with no other signatures than valid ones of these keys, one each."""
    message = pae(signed.payload_type, signed.payload)
    valid: dict[PeerId, bytes] = {}
    for key, sig in signed.signatures:
        if key in among and key not in valid and check(key, sig, message):
            valid[key] = sig
    return Signed(signed.payload_type, signed.payload, tuple(valid.items()))


def pae(payload_type: str, payload: bytes) -> bytes:
    """Pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _bytes_untrusted(fields: dict[str, object], name: str) -> bytes:
    text = take_text(fields, name, ENVELOPE_LIMIT)
    if text is None:
        raise InvalidInputError(f"envelope: {name} is missing")
    try:
        # The standard lets writers choose between both alphabets.
        return base64.b64decode(text.translate(_STANDARD), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInputError(f"envelope: {name} is not base64") from None


_STANDARD = str.maketrans("-_", "+/")
