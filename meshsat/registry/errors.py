"""The distribution specification's errors ("Error Codes"), and the body they travel in."""

import json
from enum import StrEnum

from meshsat.errors import InvalidInputError


class Code(StrEnum):
    """The specification's, as far as a registry that is only read gives them, and three more."""

    BLOB_UNKNOWN = "BLOB_UNKNOWN"
    DENIED = "DENIED"
    DIGEST_INVALID = "DIGEST_INVALID"
    MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN"
    NAME_INVALID = "NAME_INVALID"
    NAME_UNKNOWN = "NAME_UNKNOWN"
    UNSUPPORTED = "UNSUPPORTED"
    PAGINATION_NUMBER_INVALID = "PAGINATION_NUMBER_INVALID"
    """As distribution v3 calls it."""
    RANGE_INVALID = "RANGE_INVALID"
    """As distribution calls it."""
    UNAVAILABLE = "UNAVAILABLE"
    """It may exist, but nobody who has it can be reached now."""


class RefusedError(InvalidInputError):
    """A request that is answered with an error: its HTTP status, and the code and message of its body."""

    def __init__(self, status: int, code: Code, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def body(self) -> bytes:
        return json.dumps({"errors": [{"code": self.code, "message": self.message}]}).encode()
