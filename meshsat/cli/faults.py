"""Which of the exceptions that ended a run is one for the operator, and in what words."""

import errno

from meshsat.errors import MeshsatError

Fault = MeshsatError | OSError

ADVICE = {
    errno.EADDRINUSE: "another process has that port; see mesh.*_port, registry.port and api.port",
    errno.EADDRNOTAVAIL: "this machine has no such address; see mesh.listen, registry.listen and api.listen",
    errno.EACCES: "run as the user who owns the data directory, and use ports above 1023",
    errno.ENOSPC: "make room on the disk",
    errno.EROFS: "the data directory is on a read-only file system",
}
"""What to do about faults of the system that nobody closer to them put into words."""


def culprit(end: BaseException) -> Fault | None:
    """The fault that one can do something about; None where there is none, which is a defect of ours.

    A group counts as its first such fault: one cause often fells several tasks.
    """
    if isinstance(end, BaseExceptionGroup):
        return next((fault for inner in end.exceptions if (fault := culprit(inner)) is not None), None)
    if isinstance(end, MeshsatError):
        return end
    return end if isinstance(end, OSError) and end.errno in ADVICE else None


def in_words(fault: Fault) -> str:
    """What is wrong, where, and what to do."""
    if isinstance(fault, MeshsatError):
        return str(fault)
    where = f" ({fault.filename})" if fault.filename else ""
    return f"{fault.strerror or fault}{where}: {ADVICE[fault.errno or 0]}"
