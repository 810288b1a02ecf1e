"""Access: what each kind of caller may do to each kind of name, and what those who may not are told."""

from pathlib import Path
from typing import Any

import pytest

from meshsat.config import RegistrySection
from meshsat.registry.access import Access, Permit
from meshsat.registry.content import Name
from meshsat.registry.errors import RefusedError
from meshsat.registry.rules import Action
from tests.asgi_client import basic, request_scope
from tests.htpasswd import write_htpasswd
from tests.recorded import Recorded

APP = Name(None, "team/app")
SITE_APP = Name("site.internal", "team/app")
HUB = Name("docker.io", "library/busybox")
USERS = {"ada": "secret", "bob": "hunter2"}
ADA, BOB = basic("ada", "secret"), basic("bob", "hunter2")
RULES = [
    {"users": ["ada"], "repositories": ["site.internal/team/**"], "actions": ["pull", "push", "delete"]},
    {"users": ["*"], "repositories": ["docker.io/**"], "actions": ["pull"]},
]


def access(tmp_path: Path, *, auth: dict[str, Any] | None = None, **section: Any) -> Access:
    if auth is not None:
        path = write_htpasswd(tmp_path / "users", USERS)
        section["auth"] = {"htpasswd": path, **auth}
    return Access(RegistrySection.model_validate(section))


async def permit(which: Access, action: Action, name: Name, *headers: tuple[str, str]) -> Permit:
    return await which.authorize(request_scope("GET", "/v2/", headers), action, name)


async def refusal(which: Access, action: Action, name: Name, *headers: tuple[str, str]) -> RefusedError:
    with pytest.raises(RefusedError) as fault:
        await permit(which, action, name, *headers)
    return fault.value


def challenge(fault: RefusedError) -> str:
    return dict(fault.headers)[b"www-authenticate"].decode()


# --- without registry.auth


async def test_without_users_everybody_pulls(tmp_path: Path) -> None:
    which = access(tmp_path)
    for name in (APP, HUB):
        assert (await permit(which, Action.PULL, name)).name == name
        assert (await permit(which, Action.PULL, name, ADA)).name == name  # said in vain
    await which.ping(request_scope("GET", "/v2/"))
    assert (await which.catalog(request_scope("GET", "/v2/_catalog"))).sees(str(HUB))


async def test_whether_anything_can_be_changed_is_not_decided_here(tmp_path: Path) -> None:
    which = access(tmp_path)
    for action in (Action.PUSH, Action.DELETE):
        assert (await permit(which, action, APP)).name == APP


# --- with it


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
async def test_without_a_credential_one_is_told_how_to_get_in(tmp_path: Path, scheme: str) -> None:
    which = access(tmp_path, auth={"scheme": scheme})
    fault = await refusal(which, Action.PUSH, APP, ("Host", "node:5000"))
    assert (fault.status, fault.code) == (401, "UNAUTHORIZED")
    told = {
        "basic": 'Basic realm="meshsat"',
        "bearer": 'Bearer realm="http://node:5000/token",service="meshsat",scope="repository:team/app:pull,push"',
    }
    assert challenge(fault) == told[scheme]


async def test_without_rules_whoever_is_known_may_all(tmp_path: Path) -> None:
    which = access(tmp_path, auth={})
    for action in Action:
        found = await permit(which, action, APP, BOB)
        assert found.name == APP
        assert found.principal.user == "bob"
    assert (await refusal(which, Action.PULL, APP, basic("bob", "guess"))).status == 401


async def test_rules_decide_and_the_rest_is_denied(tmp_path: Path) -> None:
    which = access(tmp_path, auth={"rules": RULES})
    assert (await permit(which, Action.PUSH, APP, ADA)).name == SITE_APP
    assert (await permit(which, Action.PULL, SITE_APP, ADA)).name == SITE_APP
    for name in (APP, SITE_APP):
        fault = await refusal(which, Action.PULL, name, BOB)
        assert (fault.status, fault.code) == (403, "DENIED")
        assert str(fault) == f"bob may not pull {name}"
        assert not fault.headers
    assert (await permit(which, Action.PULL, HUB, BOB)).name == HUB
    assert (await refusal(which, Action.PUSH, HUB, ADA)).status == 403


async def test_who_may_not_pull_everything_is_bounded_to_what_belongs_to_a_name(tmp_path: Path) -> None:
    """Else whoever knows a digest had it by any name that they may pull."""
    which = access(
        tmp_path, auth={"rules": [*RULES, {"users": ["bob"], "repositories": ["**"], "actions": ["pull"]}]}
    )
    assert (await permit(which, Action.PULL, APP, ADA)).bounded
    assert not (await permit(which, Action.PULL, APP, BOB)).bounded
    assert not (await permit(access(tmp_path), Action.PULL, APP)).bounded
    assert not (await permit(access(tmp_path, auth={}), Action.PULL, APP, ADA)).bounded


async def test_a_name_without_a_registry_is_what_one_may_pull_of_the_two_it_can_mean(tmp_path: Path) -> None:
    which = access(tmp_path, auth={"rules": RULES}, upstream="docker.io")
    both = Name(None, "team/app")
    hub = Name("docker.io", "team/app")
    assert (await permit(which, Action.PULL, both, ADA)).name == both
    assert (await permit(which, Action.PULL, both, BOB)).name == hub
    assert (await permit(which, Action.PUSH, both, ADA)).name == SITE_APP


async def test_anonymous_pulls_and_still_is_asked_to_log_in_for_more(tmp_path: Path) -> None:
    which = access(tmp_path, auth={"anonymous": True})
    assert (await permit(which, Action.PULL, APP)).name == APP
    assert (await permit(which, Action.PULL, APP, basic("", ""))).name == APP
    assert (await refusal(which, Action.PUSH, APP)).status == 401
    assert (await refusal(which, Action.PULL, APP, basic("ada", "guess"))).status == 401


@pytest.mark.parametrize("auth", [{}, {"anonymous": True}, {"scheme": "bearer"}])
async def test_a_ping_says_that_there_is_something_to_log_in_to(tmp_path: Path, auth: dict[str, Any]) -> None:
    """Also where one may pull without: podman and docker look here, and nowhere else."""
    which = access(tmp_path, auth=auth)
    for headers in ([], [basic("", "")], [basic("ada", "guess")]):
        with pytest.raises(RefusedError) as fault:
            await which.ping(request_scope("GET", "/v2/", headers))
        assert fault.value.status == 401
        assert "scope" not in challenge(fault.value)
    await which.ping(request_scope("GET", "/v2/", [ADA]))


# --- tokens


def token(which: Access, user: str | None, grants: dict[str, set[str]]) -> tuple[str, str]:
    assert which.login is not None
    made = which.login.make_token(user, {name: frozenset(actions) for name, actions in grants.items()})
    return "Authorization", f"Bearer {made.decode()}"


async def test_a_token_is_good_for_what_it_says_and_the_rules_still_let(tmp_path: Path) -> None:
    which = access(tmp_path, auth={"scheme": "bearer", "rules": RULES})
    good = token(which, "ada", {"repository:team/app": {"pull"}})
    assert (await permit(which, Action.PULL, APP, good)).name == SITE_APP
    fault = await refusal(which, Action.PUSH, APP, good)
    assert fault.status == 401
    assert challenge(fault).endswith('scope="repository:team/app:pull,push",error="insufficient_scope"')
    assert (
        await refusal(which, Action.PULL, SITE_APP, good)
    ).status == 401  # another spelling, another scope
    more = token(which, "bob", {"repository:team/app": {"pull", "push", "delete"}})
    for action in Action:
        assert (await refusal(which, action, APP, more)).status == 403
    await which.ping(request_scope("GET", "/v2/", [token(which, "bob", {})]))


async def test_a_token_for_nobody_is_anonymous(tmp_path: Path) -> None:
    which = access(tmp_path, auth={"scheme": "bearer", "anonymous": True})
    nobody = token(which, None, {"repository:team/app": {"pull"}})
    assert (await permit(which, Action.PULL, APP, nobody)).principal.user is None
    assert (await refusal(which, Action.PUSH, APP, nobody)).status == 401


async def test_a_name_with_a_registry_has_it_in_its_scope(tmp_path: Path) -> None:
    """`?ns=` is no part of the path, and a token for one registry's repository is none for another's."""
    which = access(tmp_path, auth={"scheme": "bearer", "rules": RULES})
    fault = await refusal(which, Action.PULL, HUB)
    assert 'scope="repository:docker.io/library/busybox:pull"' in challenge(fault)
    hub = token(which, "bob", {"repository:docker.io/library/busybox": {"pull"}})
    assert (await permit(which, Action.PULL, HUB, hub)).name == HUB
    bare = token(which, "bob", {"repository:library/busybox": {"pull"}})
    assert (await refusal(which, Action.PULL, HUB, bare)).status == 401


# --- what depends on the principal


async def test_a_mount_needs_to_pull_from_where_it_is(tmp_path: Path) -> None:
    which = access(tmp_path, auth={"scheme": "bearer", "rules": RULES})
    ada = (await permit(which, Action.PUSH, APP, ADA)).principal
    assert ada.may(Action.PULL, HUB)
    assert not ada.may(Action.PULL, Name(None, "other/app"))
    narrow = token(which, "ada", {"repository:team/app": {"pull", "push"}})
    assert not (await permit(which, Action.PUSH, APP, narrow)).principal.may(Action.PULL, HUB)


async def test_lists_show_what_one_may_pull(tmp_path: Path) -> None:
    which = access(tmp_path, auth={"rules": RULES})
    names = ("team/app", "docker.io/library/busybox", "other", "docker.example/team/app")
    for header, seen in ((ADA, names[:2]), (BOB, names[1:2])):
        principal = await which.catalog(request_scope("GET", "/v2/_catalog", [header]))
        assert tuple(filter(principal.sees, names)) == seen
    with pytest.raises(RefusedError) as fault:
        await which.catalog(request_scope("GET", "/v2/_catalog"))
    assert fault.value.status == 401


async def test_a_name_without_a_registry_in_a_list_is_site_content(tmp_path: Path) -> None:
    """Though one who asks for it may get the upstream's."""
    which = access(tmp_path, auth={"rules": RULES}, upstream="docker.io")
    principal = await which.catalog(request_scope("GET", "/v2/_catalog", [BOB]))
    assert principal.may(Action.PULL, APP)
    assert not principal.sees("team/app")


async def test_lists_need_a_token_that_is_for_them(tmp_path: Path) -> None:
    which = access(tmp_path, auth={"scheme": "bearer", "rules": RULES})
    with pytest.raises(RefusedError) as fault:
        await which.catalog(request_scope("GET", "/v2/_catalog", [token(which, "ada", {})]))
    assert 'scope="registry:catalog:*",error="insufficient_scope"' in challenge(fault.value)
    header = token(which, "ada", {"registry:catalog": {"*"}})
    assert (await which.catalog(request_scope("GET", "/v2/_catalog", [header]))).sees(str(APP))


async def test_who_had_no_right_is_recorded(tmp_path: Path) -> None:
    audit = Recorded()
    users = write_htpasswd(tmp_path / "users", USERS)
    section = RegistrySection.model_validate({"auth": {"htpasswd": users, "rules": RULES}})
    which = Access(section, audit=audit)
    await refusal(which, Action.PUSH, SITE_APP, BOB)
    (entry,) = audit.of("repository.push")
    assert (entry.actor.id, entry.object, entry.outcome, entry.reason) == (
        "bob",
        str(SITE_APP),
        "failure",
        "forbidden",
    )
