"""The container client of the demo: pulls the image from a node and compares it with the upstream's.

skopeo where it is installed, else a small one of our own. Either pulls all platforms; what arrived is hashed
here again, file by file, and has to be exactly the set of digests that went into the upstream.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import httpx

from meshsat.demo.image import REPOSITORY, TAG, Image
from meshsat.demo.place import DemoError, Place
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.oci.media_types import OCI_INDEX, OCI_MANIFEST

PROGRAM = "skopeo"
PULL_LIMIT = 60.0
"""Seconds."""
ACCEPT = f"{OCI_INDEX}, {OCI_MANIFEST}"


async def pull_and_compare(place: Place, node: str, upstream: str, image: Image) -> str:
    """Pull `image` from the registry at `node` (HOST:PORT); `upstream` is what to compare with.

    Returns the client's name. Raises `DemoError`.
    """
    program = shutil.which(PROGRAM)
    target = place.directory / "pulled"
    target.mkdir()
    if program is None:
        await pull_everything(node, target)
    else:
        command = [program, "--insecure-policy", "copy", "--quiet", "--all", "--src-tls-verify=false"]
        source = f"docker://{node}/{REPOSITORY}:{TAG}"
        await place.run("client", [*command, source, f"dir:{target}"], limit=PULL_LIMIT)
    _compare(target, image)
    await _compare_tag(node, upstream)
    shutil.rmtree(target)
    return PROGRAM if program else "meshsat's own client"


def _compare(target: Path, image: Image) -> None:
    """What lies in `target` (skopeo's dir layout) must be the image, and all of it."""
    arrived = {Digest.of(path.read_bytes()) for path in target.iterdir() if path.name != "version"}
    if arrived != image.digests:
        wrong, missing = arrived - image.digests, image.digests - arrived
        raise DemoError(f"the client got another image: {len(wrong)} wrong files, {len(missing)} missing")
    if Digest.of((target / "manifest.json").read_bytes()) != image.index:
        raise DemoError("the client got another manifest under the tag than the upstream has")


async def _compare_tag(node: str, upstream: str) -> None:
    """The tag's manifest must be the same bytes at the node and at the upstream itself."""
    async with httpx.AsyncClient(timeout=PULL_LIMIT, trust_env=False) as http:
        bodies = [await _get(http, f"http://{at}/v2/{REPOSITORY}/manifests/{TAG}") for at in (node, upstream)]
    if bodies[0] != bodies[1]:
        raise DemoError("node and upstream give different manifests for the tag")


async def pull_everything(node: str, target: Path) -> None:
    """Every manifest and blob over HTTP into `target`, laid out as skopeo does it."""
    root_url = f"http://{node}/v2/{REPOSITORY}"
    async with httpx.AsyncClient(timeout=PULL_LIMIT, trust_env=False) as http:
        root = parse_manifest_untrusted(await _get(http, f"{root_url}/manifests/{TAG}"))
        (target / "manifest.json").write_bytes(root.raw)
        for child in root.manifests:
            manifest = parse_manifest_untrusted(await _get(http, f"{root_url}/manifests/{child.digest}"))
            (target / f"{child.digest.hex}.manifest.json").write_bytes(manifest.raw)
            missing = [blob for blob in manifest.blobs if not (target / blob.digest.hex).exists()]
            for blob in missing:
                (target / blob.digest.hex).write_bytes(await _get(http, f"{root_url}/blobs/{blob.digest}"))


async def _get(http: httpx.AsyncClient, url: str) -> bytes:
    try:
        answer = await http.get(url, headers={"Accept": ACCEPT})
    except httpx.HTTPError as fault:
        raise DemoError(f"GET {url}: {fault!r}") from None
    if answer.status_code != httpx.codes.OK:
        raise DemoError(f"GET {url}: {answer.status_code} {_error(answer.text)}")
    return answer.content


def _error(text: str) -> str:
    try:
        body: Mapping[str, object] = json.loads(text)
    except ValueError:
        return text[:200]
    return str(body.get("errors", text))[:200]
