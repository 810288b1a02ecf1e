import errno

from meshsat.cli.faults import culprit, in_words
from meshsat.errors import ConfigError, StorageError


def test_a_fault_is_found_however_deep_the_groups_are() -> None:
    fault = StorageError("the disk is full")
    group = BaseExceptionGroup("", [ValueError("a defect"), ExceptionGroup("", [fault])])
    assert culprit(group) is fault


def test_a_defect_of_ours_is_no_fault_for_the_operator() -> None:
    assert culprit(ValueError("x")) is None
    assert culprit(ExceptionGroup("", [KeyError("x"), OSError(errno.EBADF, "x")])) is None


def test_words_are_those_of_the_fault() -> None:
    assert in_words(ConfigError("no such port")) == "no such port"


def test_a_fault_of_the_system_comes_with_advice() -> None:
    fault = culprit(OSError(errno.ENOSPC, "No space left on device", "DATA/store"))
    assert fault is not None
    assert in_words(fault) == "No space left on device (DATA/store): make room on the disk"
