"""The guard: each kind of request is asked for the right that it needs, and digests are no way around the rules."""

from pathlib import Path
from typing import Any, cast

import pytest

from meshsat.config import RegistrySection
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.registry.access import Access
from meshsat.registry.app import create_registry
from meshsat.registry.content import Intake, Name
from meshsat.registry.errors import RefusedError
from meshsat.registry.guard import Allowed, Guard
from meshsat.registry.routes import UploadsRoute, parse_route_untrusted
from tests.asgi_client import basic, call, request_scope
from tests.htpasswd import write_htpasswd
from tests.images import build_image
from tests.memory_content import MemoryContent

IMAGE = build_image([b"layer"])
BLOB = next(iter(IMAGE.blobs))
TEAM, SECRET = Name("site.internal", "team/app"), Name("site.internal", "secret/app")
ADA, BOB, EVE = (basic(name, "secret") for name in ("ada", "bob", "eve"))
RULES = [
    {"users": ["ada"], "repositories": ["site.internal/team/*"], "actions": ["pull", "push"]},
    {"users": ["ada"], "repositories": ["site.internal/old/*"], "actions": ["delete"]},
    {"users": ["eve"], "repositories": ["site.internal/team/*"], "actions": ["push"]},
    {"users": ["bob"], "repositories": ["**"], "actions": ["pull", "push"]},
]
DIGEST = "sha256:" + "0" * 64


class Registry:
    def __init__(self, directory: Path, **section: Any) -> None:
        self.content = MemoryContent()
        htpasswd = write_htpasswd(directory / "users", dict.fromkeys(("ada", "bob", "eve"), "secret"))
        section["auth"] = {"htpasswd": htpasswd, "rules": RULES}
        self._guard = Guard(Access(RegistrySection.model_validate(section)), self.content)

    async def allow(self, method: str, target: str, *headers: tuple[str, str]) -> Allowed:
        path, _, query = target.partition("?")
        route = parse_route_untrusted(path.encode(), query.encode())
        return await self._guard.allow(request_scope(method, target, headers), route)

    async def status(self, method: str, target: str, *headers: tuple[str, str]) -> int:
        """Of the refusal; 200 for none."""
        try:
            await self.allow(method, target, *headers)
        except RefusedError as refused:
            return refused.status
        return 200


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


@pytest.mark.parametrize(
    ("method", "path", "needs"),
    [
        ("GET", "team/app/manifests/1", "pull"),
        ("HEAD", "team/app/manifests/1", "pull"),
        ("GET", "team/app/tags/list", "pull"),
        ("GET", f"team/app/referrers/{DIGEST}", "pull"),
        ("PUT", "team/app/manifests/1", "push"),
        ("POST", "team/app/blobs/uploads/", "push"),
        ("GET", "team/app/blobs/uploads/0", "push"),
        ("PATCH", "team/app/blobs/uploads/0", "push"),
        ("PUT", f"team/app/blobs/uploads/0?digest={DIGEST}", "push"),
        ("DELETE", "team/app/blobs/uploads/0", "push"),
        ("DELETE", "old/app/manifests/1", "delete"),
        ("DELETE", f"old/app/blobs/{DIGEST}", "delete"),
    ],
)
async def test_each_request_needs_its_right(registry: Registry, method: str, path: str, needs: str) -> None:
    assert await registry.status(method, f"/v2/{path}") == 401
    assert await registry.status(method, f"/v2/{path}", ADA) == 200
    assert await registry.status(method, f"/v2/{path}", EVE) == (200 if needs == "push" else 403)
    assert await registry.status(method, f"/v2/{path.replace('/app', '/sub/app', 1)}", ADA) == 403
    assert registry.content.asked == []


async def test_a_ping_needs_a_credential_and_a_list_shows_what_one_may_pull(registry: Registry) -> None:
    for path in ("/v2/", "/v2/_catalog"):
        assert await registry.status("GET", path) == 401
        assert await registry.status("GET", path, EVE) == 200
    shows = (await registry.allow("GET", "/v2/_catalog", ADA)).shows
    assert [one for one in ("team/app", "secret/app", "docker.io/library/a") if shows(one)] == ["team/app"]


async def test_what_is_allowed_is_named_in_full(registry: Registry) -> None:
    route = (await registry.allow("GET", "/v2/team/app/tags/list", ADA)).route
    assert getattr(route, "target").name == TEAM  # noqa: B009 - of whatever kind
    route = (await registry.allow("GET", "/v2/team/app/tags/list", BOB)).route
    assert getattr(route, "target").name == Name(None, "team/app")  # noqa: B009


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_blob_of_another_repository_is_not_had_by_a_name_that_one_may_pull(
    registry: Registry, method: str
) -> None:
    registry.content.add(SECRET, "1", IMAGE)
    assert await registry.status(method, f"/v2/secret/app/blobs/{BLOB}", ADA) == 403
    assert await registry.status(method, f"/v2/team/app/blobs/{BLOB}", ADA) == 404
    assert registry.content.asked == [("belongs", TEAM, Digest.parse_untrusted(BLOB))]
    assert await registry.status(method, f"/v2/team/app/blobs/{BLOB}", BOB) == 200  # may have it anyhow
    registry.content.add(TEAM, "1", IMAGE)
    assert await registry.status(method, f"/v2/team/app/blobs/{BLOB}", ADA) == 200


@pytest.mark.parametrize(
    ("user", "query", "mount", "source"),
    [
        (ADA, "", False, None),
        (ADA, "mount={}&from=team/other", True, Name("site.internal", "team/other")),
        (ADA, "mount={}&from=secret/app", False, None),
        (ADA, "mount={}", False, None),
        (EVE, "mount={}&from=team/other", False, None),
        (BOB, "mount={}&from=secret/app", True, Name(None, "secret/app")),
        (BOB, "mount={}", True, None),
    ],
)
async def test_a_mount_is_a_pull_from_where_it_is(
    registry: Registry, user: tuple[str, str], query: str, mount: bool, source: Name | None
) -> None:
    target = f"/v2/team/app/blobs/uploads/?{query.format(DIGEST)}"
    route = (await registry.allow("POST", target, user)).route
    assert isinstance(route, UploadsRoute)
    assert (route.mount is not None, route.source) == (mount, source)


async def test_who_may_push_is_told_apart(registry: Registry) -> None:
    target = "/v2/team/app/manifests/1"
    assert (await registry.allow("GET", target, ADA)).pushes
    assert not (await registry.allow("GET", "/v2/team/app/tags/list", ADA)).pushes
    assert (await registry.allow("GET", "/v2/secret/app/manifests/1", BOB)).pushes


async def test_who_may_only_pull_is_not_taken_for_one_who_pushes(tmp_path: Path) -> None:
    rules = [
        {"users": ["anonymous"], "repositories": ["**"], "actions": ["pull"]},
        {"users": ["ada"], "repositories": ["site.internal/team/*"], "actions": ["push"]},
    ]
    htpasswd = write_htpasswd(tmp_path / "users", dict.fromkeys(("ada", "bob"), "secret"))
    auth = {"htpasswd": htpasswd, "rules": rules}
    guard = Guard(Access(RegistrySection.model_validate({"auth": auth})), MemoryContent())
    for headers, path, pushes in (
        ([], "team/app", False),
        ([BOB], "team/app", False),
        ([ADA], "team/app", True),
        ([ADA], "other/app", False),
    ):
        target = f"/v2/{path}/manifests/1"
        route = parse_route_untrusted(target.encode(), b"")
        assert (await guard.allow(request_scope("GET", target, headers), route)).pushes is pushes


@pytest.mark.parametrize("push", [True, False])
async def test_what_is_yet_to_be_signed_is_for_who_may_push(tmp_path: Path, push: bool) -> None:
    htpasswd = write_htpasswd(tmp_path / "users", dict.fromkeys(("ada", "bob", "eve"), "secret"))
    rules = [*RULES, {"users": ["eve"], "repositories": ["**"], "actions": ["pull"]}]
    section = RegistrySection.model_validate({"push": push, "auth": {"htpasswd": htpasswd, "rules": rules}})
    content = MemoryContent()
    content.add(TEAM, "1", IMAGE)
    content.add(Name(None, "team/app"), "1", IMAGE)
    intake = cast("Intake", object())
    app = create_registry(content, Metrics(), section, access=Access(section), intake=intake)
    open_to_all = create_registry(content, Metrics(), RegistrySection(push=True), intake=intake)
    for asked, user in ((app, ADA), (app, EVE), (open_to_all, None)):
        headers = [] if user is None else [user]
        assert (await call(asked, "GET", "/v2/team/app/manifests/1", headers)).status == 200
    # eve may push to team/* too
    assert content.unsigned == [push, push, False]
    await call(app, "GET", "/v2/secret/app/manifests/1", [EVE])
    assert content.unsigned[3:] == [False]
