import pytest

from meshsat.errors import InvalidInputError
from meshsat.runtime.catalog import NAMES, PLANNERS, RUNTIMES, runtime_untrusted


def test_every_runtime_has_a_plan() -> None:
    assert {runtime.place for runtime in RUNTIMES} == set(PLANNERS)
    assert NAMES == ("containerd", "k3s", "rke2", "podman", "cri-o", "docker")


def test_runtimes_go_by_their_names() -> None:
    assert runtime_untrusted("CRI-O").name == runtime_untrusted("crio").name == "cri-o"
    assert runtime_untrusted("skopeo").place == "containers"
    with pytest.raises(InvalidInputError, match="containerd, k3s, rke2, podman, cri-o, docker"):
        runtime_untrusted("rkt")
