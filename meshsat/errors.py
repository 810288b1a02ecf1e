"""The exception families that callers may catch.

Each message says what is wrong, where, and what to do about it: it is shown to a person as it is.
A secret never becomes part of one.
"""


class MeshsatError(Exception):
    """Anything that meshsat itself raises on purpose."""


class InvalidInputError(MeshsatError):
    """Bytes or text from outside are not what they must be. Raised by the `*_untrusted` functions only."""


class ConfigError(MeshsatError):
    """A setting is missing, malformed or contradicts another."""


class NotFoundError(MeshsatError):
    """The thing asked for does not exist, as far as everybody who could be asked knows."""


class UnavailableError(MeshsatError):
    """It may exist, but nobody who has it can be reached now. Trying again later may help."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which the other side wants to be asked again, if it said so."""


class UplinkShutError(UnavailableError):
    """This node's limits let nothing pass over its uplink now: a quota is spent, or no window is open."""


class DeniedError(MeshsatError):
    """The other side knows us and refuses, or we refuse it: credentials, pass, policy."""


class BusyError(MeshsatError):
    """As much is under way as may be. Trying again soon may help."""


class TooLongError(InvalidInputError):
    """More bytes than may be taken."""


class DigestMismatchError(MeshsatError):
    """Bytes do not have the digest that they were promised under."""


class StorageError(MeshsatError):
    """The disk, or what is on it, does not let us go on."""


class StorageFullError(StorageError):
    """There is no room left on the disk."""


class StoreLockedError(StorageError):
    """Another process holds the data directory."""
