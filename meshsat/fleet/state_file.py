"""The file that people carry: a desired state with all that it takes to believe it, in one JSON object.

`roots`: envelopes of roots, without gaps. `head`: the envelope of a head. `body`: the desired state, as text,
byte for byte what the head's digest is of. Each may be missing: a new root travels without a state. What is
still to be signed is in it as well, so that several people can sign one after the other, offline.
"""

import json
from dataclasses import dataclass
from typing import Any

from meshsat.errors import InvalidInputError
from meshsat.oci.fields import parse_object_untrusted, take_objects, take_text
from meshsat.trust.dsse import ENVELOPE_LIMIT
from meshsat.trust.state_documents import BODY_LIMIT, ROOTS_LIMIT

FILE_LIMIT = 16 * 1024 * 1024
"""Bytes: a body in which every character is escaped, and roots."""
CONTAINERS = 1_000_000
"""JSON objects and lists, with those in the text of the body."""


@dataclass(frozen=True, slots=True)
class StateFile:
    """Nothing of it is verified."""

    roots: tuple[bytes, ...] = ()
    head: bytes | None = None
    body: bytes | None = None


def encode_state_file(file: StateFile) -> bytes:
    fields: dict[str, Any] = {"roots": [json.loads(raw) for raw in file.roots]}
    if file.head is not None:
        fields["head"] = json.loads(file.head)
    if file.body is not None:
        fields["body"] = file.body.decode()
    return json.dumps(fields, indent=1, ensure_ascii=False).encode() + b"\n"


def parse_state_file_untrusted(raw: bytes) -> StateFile:
    """Raises `InvalidInputError`."""
    if len(raw) > FILE_LIMIT:
        raise InvalidInputError(f"a state file has at most {FILE_LIMIT} bytes; this has {len(raw)}")
    fields = parse_object_untrusted(raw, "state file", CONTAINERS)
    unknown = fields.keys() - {"roots", "head", "body"}
    if unknown or not fields:
        raise InvalidInputError("state file: an object with roots, head and body, and nothing else")
    roots = take_objects(fields, "roots")
    if len(roots) > ROOTS_LIMIT:
        raise InvalidInputError(f"state file: more than {ROOTS_LIMIT} roots")
    head = fields.get("head")
    body = take_text(fields, "body", BODY_LIMIT)
    if body is not None and len(body.encode()) > BODY_LIMIT:
        raise InvalidInputError(f"state file: a body has at most {BODY_LIMIT} bytes")
    return StateFile(
        tuple(map(_envelope, roots)),
        None if head is None else _envelope(head),
        None if body is None else body.encode(),
    )


def _envelope(value: Any) -> bytes:
    raw = json.dumps(value, separators=(",", ":")).encode()
    if not isinstance(value, dict) or len(raw) > ENVELOPE_LIMIT:
        raise InvalidInputError(f"state file: an envelope is an object of at most {ENVELOPE_LIMIT} bytes")
    return raw
