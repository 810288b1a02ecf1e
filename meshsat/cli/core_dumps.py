"""No image of the node's memory on a disk: passwords and keys are in it."""

import ctypes
import resource

PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """From here on the kernel writes none, nor gives one to a handler, and only root may trace the process
    (prctl(2), core(5)). Where the kernel has no such call, the limit alone holds."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
