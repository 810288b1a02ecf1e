"""Docker: `registry-mirrors` in daemon.json.

Docker knows mirrors of Docker Hub alone: for every other registry it goes to that registry, whatever is set
here. It does not tell the mirror that docker.io is meant: a node that takes names without a registry for
those of another one would give it other images, so then nothing is set. Nodes on 127.0.0.0/8 need no
`insecure-registries`.
"""

import re

from meshsat.errors import InvalidInputError
from meshsat.oci.reference import DOCKER_HUB
from meshsat.runtime.formats import parse_json_untrusted, texts
from meshsat.runtime.json_edit import put_first
from meshsat.runtime.plans import Mirror, Plan, View

FILE = "/etc/docker/daemon.json"
CERTIFICATES = "/etc/docker/certs.d"
FLAGS = (
    "/etc/default/docker",
    "/etc/sysconfig/docker",
    "/lib/systemd/system/docker.service",
    "/usr/lib/systemd/system/docker.service",
    "/etc/systemd/system/docker.service",
)
DROP_INS = "/etc/systemd/system/docker.service.d"
ONLY_HUB = (
    "docker asks a mirror for images of docker.io only; for other registries it goes straight to them"
    " (pull those through containerd or podman, or name the node itself: docker pull {host}/REGISTRY/NAME)"
)

UNNAMED = (
    'left alone: docker does not tell a mirror which registry a name is of, and this node takes "library/app"'
    ' for {means}; with registry.upstream = "docker.io" in its configuration it can be docker\'s mirror'
)


def plan(view: View, mirror: Mirror) -> Plan:
    """`Planner` of docker."""
    data = view.read(FILE) or b""
    listed = texts(FILE, "registry-mirrors", parse_json_untrusted(FILE, data).get("registry-mirrors"))
    _refuse_flag(view)
    notes = [ONLY_HUB.format(host=mirror.host)]
    if mirror.unnamed != DOCKER_HUB:
        means = f"{mirror.unnamed}/library/app" if mirror.unnamed else "none at all"
        return Plan({}, (*notes, UNNAMED.format(means=means)))
    if not mirror.every and all(origin.host != DOCKER_HUB for origin in mirror.origins):
        return Plan({}, (*notes, "docker.io is not among the registries given: left alone"))
    files: dict[str, bytes] = {}
    if mirror.ca_file is not None:
        files |= authority(view, mirror, CERTIFICATES)
    if mirror.url in [url.rstrip("/") for url in listed]:
        if listed[0].rstrip("/") != mirror.url:
            notes.append(f"{FILE} names {mirror.url}, but not first: left as it is")
    else:
        files[FILE] = put_first(FILE, data, "registry-mirrors", mirror.url)
    return Plan(files, tuple(notes), frozenset({FILE}))


def authority(view: View, mirror: Mirror, directory: str) -> dict[str, bytes]:
    """The authority of an https node, where docker and podman look for one. Raises `InvalidInputError`."""
    wanted = view.read(mirror.ca_file or "")
    if wanted is None:
        raise InvalidInputError(f"the node's CA file {mirror.ca_file} does not exist")
    return {f"{directory}/{mirror.host}/meshsat.crt": wanted}


def _refuse_flag(view: View) -> None:
    """Docker does not start when a setting is both a flag and in daemon.json."""
    drop_ins = [f"{DROP_INS}/{name}" for name in view.names(DROP_INS) if name.endswith(".conf")]
    for path in (*FLAGS, *drop_ins):
        for line in (view.read(path) or b"").splitlines():
            if re.match(rb"\s*[^#\s].*--registry-mirror\b", line):
                raise InvalidInputError(
                    f"{path} gives docker the flag --registry-mirror, and docker refuses to start with"
                    " both that"
                    f" and registry-mirrors in {FILE}: move it there, then run this again"
                )
