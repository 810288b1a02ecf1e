import json

import pytest

from meshsat.errors import InvalidInputError
from meshsat.runtime.docker import DROP_INS, FILE, authority, plan
from meshsat.runtime.plans import Mirror, Origin
from tests.unit.runtime.trees import MIRROR, NODE, DictView, view_of


def test_the_node_comes_before_the_mirrors_that_are_there() -> None:
    made = plan(view_of("docker-mirrors"), MIRROR)
    found = json.loads(made.files[FILE])
    assert found["registry-mirrors"] == [NODE, "https://mirror.gcr.io", "https://hub.example.com"]
    assert found["insecure-registries"] == ["10.0.0.0/8"]
    assert made.read_at_start == {FILE}


def test_what_docker_cannot_do_is_said() -> None:
    assert any("docker.io only" in note for note in plan(DictView({}), MIRROR).notes)


@pytest.mark.parametrize("unnamed", [None, "harbor.example.com"])
def test_a_node_that_would_give_other_images_is_not_made_a_mirror(unnamed: str | None) -> None:
    made = plan(DictView({}), Mirror(NODE, unnamed=unnamed))
    assert made.files == {}
    assert any('registry.upstream = "docker.io"' in note for note in made.notes)


def test_without_docker_io_there_is_nothing_to_do() -> None:
    assert plan(DictView({}), Mirror(NODE, (Origin("quay.io"),), False, None, "docker.io")).files == {}


@pytest.mark.parametrize("listed", [[f"{NODE}/"], ["https://x", NODE]])
def test_a_node_that_is_there_is_not_added_again(listed: list[str]) -> None:
    made = plan(DictView({FILE: json.dumps({"registry-mirrors": listed})}), MIRROR)
    assert made.files == {}
    assert any("not first" in note for note in made.notes) == (len(listed) == 2)


def test_a_flag_of_the_same_name_would_keep_docker_from_starting() -> None:
    unit = "[Service]\nExecStart=/usr/bin/dockerd --registry-mirror=https://x\n"
    for path in ("/lib/systemd/system/docker.service", f"{DROP_INS}/10-mirror.conf", "/etc/default/docker"):
        with pytest.raises(InvalidInputError, match="refuses to start"):
            plan(DictView({path: unit}), MIRROR)
    assert plan(DictView({"/etc/default/docker": '#DOCKER_OPTS="--registry-mirror=x"\n'}), MIRROR).files


def test_the_authority_of_an_https_node() -> None:
    https = Mirror("https://n:5443", ca_file="/ca.pem", unnamed="docker.io")
    assert "/etc/docker/certs.d/n:5443/meshsat.crt" in plan(DictView({"/ca.pem": "pem"}), https).files
    assert authority(DictView({"/ca.pem": "pem"}), https, "/d") == {"/d/n:5443/meshsat.crt": b"pem"}
