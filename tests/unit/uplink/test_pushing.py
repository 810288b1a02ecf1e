"""An artifact is pushed: blobs first, logins to the registry's own origin alone, and faults in words."""

import base64
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from meshsat.config import UplinkSection, UpstreamRegistry
from meshsat.errors import ConfigError, DeniedError, MeshsatError, UnavailableError
from meshsat.fleet.artifact import artifact_of
from meshsat.oci.reference import Reference
from meshsat.uplink.answers import LOCATION_LIMIT
from meshsat.uplink.credentials import Credentials
from meshsat.uplink.pushing import ANSWER_LIMIT, _Push, push
from tests.authors import Signers
from tests.states import state_file

ARTIFACT = artifact_of(state_file(Signers()))
REFERENCE = Reference.parse_untrusted("reg.test/fleet/state:latest")
PATH = "/v2/fleet/state"


class Registry:
    """As much of one as a push needs."""

    def __init__(self, *, uploads: str = "/v2/fleet/state/blobs/uploads/1?state=x") -> None:
        self.requests: list[httpx.Request] = []
        self.held: dict[str, bytes] = {}
        self.tags: dict[str, bytes] = {}
        self.uploads = uploads
        self.before: Callable[[httpx.Request], httpx.Response | None] = lambda _request: None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        early = self.before(request)
        if early is not None:
            return early
        path = request.url.path
        if request.method == "HEAD":
            return httpx.Response(200 if path.rpartition("/")[2] in self.held else 404)
        if request.method == "POST":
            return httpx.Response(202, headers={"location": self.uploads})
        if "manifests" in path:
            self.tags[path.rpartition("/")[2]] = request.content
        else:
            self.held[request.url.params["digest"]] = request.content
        return httpx.Response(201)


async def pushed(registry: Registry, section: UplinkSection | None = None) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(registry)) as http:
        credentials = Credentials(section or UplinkSection(), {})
        origin = httpx.URL("https://reg.test")
        one = _Push(http, origin, REFERENCE, credentials, plain=False)
        await one.run(ARTIFACT.manifest, ARTIFACT.blobs)


def login(tmp_path: Path) -> UplinkSection:
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    secret.chmod(0o600)
    entry = UpstreamRegistry(host="reg.test", username="bob", password_file=secret)
    return UplinkSection(registries=(entry,))


async def test_blobs_first_then_the_manifest() -> None:
    registry = Registry()
    await pushed(registry)
    assert registry.held == {str(digest): data for digest, data in ARTIFACT.blobs.items()}
    assert registry.tags == {"latest": ARTIFACT.manifest.raw}
    assert registry.requests[-1].url.path == f"{PATH}/manifests/latest"
    assert registry.requests[-1].headers["content-type"] == ARTIFACT.manifest.media_type
    assert all(request.url.params.get("state") in (None, "x") for request in registry.requests)
    before = len(registry.requests)
    await pushed(registry)
    assert [one.method for one in registry.requests[before:]] == ["HEAD"] * len(ARTIFACT.blobs) + ["PUT"]


async def test_a_password_is_sent_when_it_is_asked_for_and_to_nobody_else(tmp_path: Path) -> None:
    registry = Registry(uploads="https://storage.test/upload/1")

    def guarded(request: httpx.Request) -> httpx.Response | None:
        if request.url.host != "reg.test" or "authorization" in request.headers:
            return None
        return httpx.Response(401, headers={"www-authenticate": 'Basic realm="x"'})

    registry.before = guarded
    await pushed(registry, login(tmp_path))
    basic = "Basic " + base64.b64encode(b"bob:hunter2").decode()
    for request in registry.requests:
        expected = {None, basic} if request.url.host == "reg.test" else {None}
        assert request.headers.get("authorization") in expected
    assert registry.tags


async def test_a_token_is_for_pushing(tmp_path: Path) -> None:
    registry = Registry()
    scopes: list[str] = []

    def guarded(request: httpx.Request) -> httpx.Response | None:
        if request.url.host == "auth.test":
            scopes.append(request.url.params["scope"])
            return httpx.Response(200, json={"token": "t0ken"})
        if request.headers.get("authorization") == "Bearer t0ken":
            return None
        challenge = 'Bearer realm="https://auth.test/token",service="reg.test"'
        return httpx.Response(401, headers={"www-authenticate": challenge})

    registry.before = guarded
    await pushed(registry, login(tmp_path))
    assert scopes == ["repository:fleet/state:pull,push"]
    assert registry.tags


async def test_who_has_no_right_to_push_is_told_so(tmp_path: Path) -> None:
    registry = Registry()
    registry.before = lambda request: httpx.Response(403) if request.method == "POST" else None
    with pytest.raises(DeniedError, match="push fleet/state"):
        await pushed(registry, login(tmp_path))


async def test_a_refusal_is_told_in_the_registrys_words() -> None:
    registry = Registry()
    error = {"errors": [{"code": "QUOTA", "message": "the project is full"}]}
    registry.before = lambda request: httpx.Response(507, json=error) if request.method == "PUT" else None
    with pytest.raises(MeshsatError, match=r"507 \(QUOTA: the project is full\)"):
        await pushed(registry)


@pytest.mark.parametrize("uploads", ["", "ftp://x/y", "http://reg.test/upload", "x" * (LOCATION_LIMIT + 1)])
async def test_uploads_go_nowhere_strange(uploads: str) -> None:
    registry = Registry(uploads=uploads)
    with pytest.raises(MeshsatError):
        await pushed(registry)
    assert not registry.held
    assert {request.url.scheme for request in registry.requests} == {"https"}


async def test_an_answer_without_end_is_not_read() -> None:
    registry = Registry()
    registry.before = lambda _request: httpx.Response(500, content=bytes(4 * ANSWER_LIMIT))
    with pytest.raises(MeshsatError, match="was answered 500"):
        await pushed(registry)


async def test_a_registry_that_is_not_there() -> None:
    section = UplinkSection(registries=(UpstreamRegistry(host="127.0.0.1:1", plain_http=True),))
    reference = Reference.parse_untrusted("127.0.0.1:1/fleet/state:latest")
    with pytest.raises(UnavailableError, match="can't be reached"):
        await push(section, reference, ARTIFACT.manifest, ARTIFACT.blobs, environ={})


async def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    section = UplinkSection(registries=(UpstreamRegistry(host="reg.test", ca_file=tmp_path / "none"),))
    with pytest.raises(ConfigError, match="ca_file"):
        await push(section, REFERENCE, ARTIFACT.manifest, ARTIFACT.blobs, environ={})
