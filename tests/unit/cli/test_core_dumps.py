import subprocess
import sys

SCRIPT = """
import ctypes, resource
from meshsat.cli.core_dumps import forbid_core_dumps
libc = ctypes.CDLL(None)
before = libc.prctl(3, 0, 0, 0, 0)
forbid_core_dumps()
print(before, libc.prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))
"""


def test_the_process_cannot_be_dumped_any_more() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1)[1].strip() == "0 (0, 0)"
