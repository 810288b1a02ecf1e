"""The composition root, run for real on loopback: what it tells of itself, what keeps it from starting."""

import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from meshsat.cli.faults import culprit
from meshsat.config import Config, RegistrySection, UplinkSection
from meshsat.errors import ConfigError, DeniedError, MeshsatError, StoreLockedError
from meshsat.mesh.identity import Identity
from meshsat.metrics import Metrics
from meshsat.node import Listening, Node, run_node
from meshsat.oci.digest import Digest
from meshsat.registry import passwords
from meshsat.reload import Reloaded, Reloader
from meshsat.status import ImageStatus
from meshsat.store.store import Store
from meshsat.trust.tokens import parse_untrusted
from meshsat.uplink.client import Uplink
from tests.fleet import Fleet
from tests.htpasswd import write_htpasswd
from tests.signing import make_key, public_pem
from tests.upstream import Upstream

FLEET = Fleet()
LIMIT = 20.0


def config(directory: Path, *, peers: Sequence[str] = (), upstream: str = "", **sections: Any) -> Config:
    """A node on loopback, on ports that the system chooses, without mDNS; dark without `upstream`."""
    plain = [{"host": upstream, "plain_http": True}] if upstream else []
    mesh = {"listen": "127.0.0.1", "control_port": 0, "bulk_port": 0, "mdns": False, "peers": peers}
    return Config.load(
        data_dir=directory,
        uplink={"enabled": bool(upstream), "registries": plain},
        mesh=mesh,
        registry={"port": 0, "upstream": upstream or None},
        api={"port": 0},
        **sections,
    )


@asynccontextmanager
async def running(
    settings: Config, identity: Identity, reloader: Reloader | None = None
) -> AsyncIterator[tuple[Node, Listening]]:
    async with await Store.open(settings.data_dir) as store, trio.open_nursery() as nursery:
        metrics = Metrics()
        uplink = Uplink(settings.uplink, metrics) if settings.uplink.enabled else None
        if uplink is not None:
            async with uplink:
                node = Node(settings, identity, store, uplink, metrics, reloader=reloader)
                yield node, await nursery.start(node.run)
                nursery.cancel_scope.cancel()
        else:
            node = Node(settings, identity, store, None, metrics, reloader=reloader)
            yield node, await nursery.start(node.run)
            nursery.cancel_scope.cancel()


def multiaddr(identity: Identity, listening: Listening) -> str:
    host, _, port = listening.control[0].rpartition(":")
    return f"/ip4/{host}/tcp/{port}/p2p/{identity.key.peer_id}"


async def test_two_nodes_meet_by_address_and_one_gives_the_other_an_image(tmp_path: Path) -> None:
    members = {name: FLEET.member(name, directory=tmp_path / name) for name in ("a", "b")}
    # The one with the smaller peer id dials at once.
    other_name, one_name = sorted(members, key=lambda name: members[name].key.peer_id)
    one, other = members[one_name], members[other_name]
    with Upstream() as upstream, trio.fail_after(LIMIT):
        image = upstream.add_image("library/pos", "42", layers=[b"layer" * 100_000])
        reference = f"{upstream.address}/library/pos:42"
        async with (
            running(config(tmp_path / one_name, upstream=upstream.address, name="first"), one) as (up, there),
            running(config(tmp_path / other_name, peers=[multiaddr(one, there)]), other) as (dark, here),
        ):
            assert dark.status().problems
            while not (dark._machine.sessions and dark.peers()[0].plane == "tls"):
                await trio.sleep(0.02)
            events = [event async for event in dark.pull(reference, pin=False)]
            assert events[-1].event == "done"

            status = dark.status()
            assert (status.name, status.site, status.fleet) == (other_name, "hq", FLEET.id)
            assert (status.blobs, status.blob_bytes) == (len(image.contents), image.size)
            assert (status.images, status.peers, status.wan_bytes_in) == (1, 1, 0)
            assert status.lan_bytes_in >= image.size
            assert not status.uplink.enabled
            assert (status.registry_address, status.control_addresses) == (here.registry, here.control)
            assert up.status().wan_bytes_in >= image.size
            assert up.status().uplink.up
            assert up.status().lan_bytes_out >= image.size

            (peer,) = dark.peers()
            assert (peer.name, peer.site, peer.state, peer.uplink) == ("first", "hq", "connected", True)
            assert peer.bytes_in >= image.size

            (shown,) = dark.images()
            assert (shown.reference, shown.digest, shown.complete) == (reference, image.root, True)
            async with httpx.AsyncClient() as http:
                url = f"http://{here.registry}/v2/{upstream.address}/library/pos/manifests/42"
                assert (await http.get(url)).content == image.raw


async def test_a_lone_node_tells_what_to_do_about_it(tmp_path: Path) -> None:
    identity = FLEET.expired(directory=tmp_path)
    async with running(config(tmp_path), identity) as (node, listening):
        problems = " ".join(node.status().problems)
        for hint in ("mDNS", "uplink", "meshsat join"):
            assert hint in problems
        assert (node.peers(), node.images()) == ([], [])
        async with httpx.AsyncClient(base_url=f"http://{listening.api}") as http:
            assert (await http.get("/healthz")).status_code == 200
            ready = await http.get("/readyz")
            assert (ready.status_code == 200) is node.ready()[0]
            assert b"meshsat" in (await http.get("/metrics")).content


async def test_before_it_listens_it_is_not_ready(tmp_path: Path) -> None:
    identity = FLEET.member(directory=tmp_path)
    async with await Store.open(tmp_path) as store:
        node = Node(config(tmp_path), identity, store, None, Metrics())
        assert node.ready() == (False, "the node is starting")


async def test_only_an_enroller_invites(tmp_path: Path) -> None:
    boss, plain = (
        FLEET.member(name, enroller=name == "boss", directory=tmp_path / name) for name in ("boss", "plain")
    )
    async with running(config(tmp_path / "boss"), boss) as (node, listening):
        token = parse_untrusted(await node.invite(uses=3, valid_seconds=60))
        assert (token.grant.uses, token.grant.site) == (3, "hq")
        assert time.time() < token.grant.expires <= time.time() + 60
        assert token.grant.addresses == listening.control
    async with running(config(tmp_path / "plain"), plain) as (node, _):
        with pytest.raises(DeniedError, match="no enroller"):
            await node.invite(uses=1, valid_seconds=60)


async def test_an_image_that_is_only_known_is_listed_as_such(tmp_path: Path) -> None:
    identity = FLEET.member(directory=tmp_path)
    with Upstream() as upstream, trio.fail_after(LIMIT):
        image = upstream.add_image("library/pos", "42", layers=[b"layer"])
        async with (
            running(config(tmp_path, upstream=upstream.address), identity) as (_node, listening),
            httpx.AsyncClient() as http,
        ):
            url = f"http://{listening.registry}/v2/library/pos/manifests/42"
            while (await http.get(url)).status_code != 200:
                await trio.sleep(0.1)
            while not _node.images():
                await trio.sleep(0.01)
            (shown,) = _node.images()
            name = f"{upstream.address}/library/pos:42"
            size = len(image.raw)
            assert shown == ImageStatus(name, image.root, size, size, False, shown.resolved_at)


# --- what keeps it from starting ---


async def expect_refusal(settings: Config, kind: type[MeshsatError], *hints: str) -> None:
    with trio.fail_after(LIMIT):
        try:
            await run_node(settings)
        except BaseException as ended:  # noqa: BLE001 - the nursery may have wrapped it
            fault: BaseException = ended
            while isinstance(fault, BaseExceptionGroup):
                (fault,) = fault.exceptions
            assert isinstance(fault, kind), fault
            for hint in hints:
                assert hint in str(fault)
        else:
            pytest.fail("it ran")


async def test_without_a_pass_it_says_how_to_get_one(tmp_path: Path) -> None:
    await expect_refusal(config(tmp_path), ConfigError, "meshsat init", "meshsat join")


async def test_a_second_one_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    FLEET.member(directory=tmp_path)
    async with await Store.open(tmp_path):
        await expect_refusal(config(tmp_path), StoreLockedError, str(tmp_path))


async def test_a_static_peer_that_is_none_is_told(tmp_path: Path) -> None:
    FLEET.member(directory=tmp_path)
    await expect_refusal(
        config(tmp_path, peers=["10.0.0.2:4701"]), ConfigError, "mesh.peers", "10.0.0.2:4701"
    )


async def test_it_runs_until_cancelled_and_leaves_the_directory_to_the_next(tmp_path: Path) -> None:
    FLEET.member(directory=tmp_path)
    for _ in range(2):
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                listening: Listening = await nursery.start(run_node, config(tmp_path))
                assert listening.registry.startswith("127.0.0.1:")
                assert (tmp_path / "api.sock").is_socket()
                nursery.cancel_scope.cancel()


async def test_a_registry_with_users_shows_the_fleets_certificate_and_tells_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "LOOK", 0.0)
    identity = FLEET.member("boss", enroller=True, directory=tmp_path)
    users = write_htpasswd(tmp_path / "users", {"ada": "secret"})
    registry = {"port": 0, "tls": {"fleet": True}, "auth": {"htpasswd": users}}
    settings = config(tmp_path).model_copy(update={"registry": RegistrySection.model_validate(registry)})
    async with running(settings, identity) as (node, listening):
        trusting = ssl.create_default_context(cafile=tmp_path / "registry-ca.crt")
        async with httpx.AsyncClient(verify=trusting, trust_env=False) as http:
            url = f"https://{listening.registry}/v2/"
            assert (await http.get(url)).status_code == 401
            assert (await http.get(url, auth=("ada", "secret"))).status_code == 200
            assert not any("users" in problem for problem in node.status().problems)
            users.unlink()
            assert (await http.get(url, auth=("ada", "secret"))).status_code == 200
            assert any("the users of before stay in force" in told for told in node.status().problems)


async def test_a_node_that_can_issue_no_certificate_says_how_to_get_one(tmp_path: Path) -> None:
    identity = FLEET.member("till-1", directory=tmp_path)
    settings = Config.load(data_dir=tmp_path, registry={"tls": {"fleet": True}})
    async with await Store.open(tmp_path) as store:
        with pytest.raises(ConfigError, match="meshsat certificate"):
            Node(settings, identity, store, None, Metrics())


# --- what changes while it runs ---


async def test_limits_change_while_it_runs_and_shut_its_uplink_with_a_reason(tmp_path: Path) -> None:
    identity = FLEET.member(directory=tmp_path)
    with Upstream() as upstream, trio.fail_after(LIMIT):
        image = upstream.add_image("library/pos", "42", layers=[b"layer" * 100_000])
        settings = config(tmp_path, upstream=upstream.address)
        later: list[dict[str, Any]] = []

        def load() -> Config:
            uplink = settings.uplink.model_dump() | later[-1]
            if not later[-1]:
                raise ConfigError("uplink: wrong")
            return settings.model_copy(update={"uplink": UplinkSection.model_validate(uplink)})

        async with running(settings, identity, Reloader(settings, load)) as (node, _):
            while not node.status().uplink.up:
                [_ async for _ in node.pull(f"{upstream.address}/library/pos:42", pin=False)]
            assert node.wan().rows[0].bytes_in > image.size - 10_000
            spent = node.wan().rows[0].bytes_in
            later.append({"rate": 5000, "quota": {"month": spent}})
            done = await node.reload()
            assert done == Reloaded(("uplink.quota.month", "uplink.rate"), ())
            while node._machine.uplink_up:
                await trio.sleep(0.02)
            status = node.status()
            assert (status.uplink.gate, status.uplink.rate) == ("shut", 5000)
            assert any("quota of the month" in told and "opens at" in told for told in status.problems)
            later.append({})
            with pytest.raises(ConfigError):
                await node.reload()
            assert any("the one of before is in force" in told for told in node.status().problems)
            later.append({"connections": 3})
            assert (await node.reload()).restart == ("uplink.connections",)
            while not node._machine.uplink_up:
                await trio.sleep(0.02)
            assert node.status().uplink.gate == "open"


async def test_a_node_that_was_given_its_configuration_once_does_not_reload(tmp_path: Path) -> None:
    identity = FLEET.member(directory=tmp_path)
    async with running(config(tmp_path), identity) as (node, _):
        with pytest.raises(DeniedError, match="can't be read again"):
            await node.reload()
        assert not node.wan().enabled


async def test_a_database_that_breaks_in_use_ends_the_node_and_the_next_one_goes_on(tmp_path: Path) -> None:
    """Whatever it would still answer is not to be trusted; its supervisor starts it again."""
    identity = FLEET.member(directory=tmp_path)

    async def break_it() -> None:
        async with running(config(tmp_path), identity) as (node, _):
            assert await node.gc(dry_run=True)
            node._store._backing.database.on_rotten("database disk image is malformed")
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as ended, trio.fail_after(LIMIT):
        await break_it()
    assert "rebuilt at the next start" in str(culprit(ended.value))
    async with running(config(tmp_path), identity) as (node, _):
        assert (tmp_path / "store" / "state.sqlite.broken").exists()
        assert node.status().disk.used == 0


async def test_peers_hear_of_what_is_let_go(tmp_path: Path) -> None:
    identity = FLEET.member(directory=tmp_path)
    async with running(config(tmp_path), identity) as (node, _):
        digest = Digest.of(b"old")
        await node._store.put(b"old", digest)
        node._driver.stored(digest, 3)
        assert digest in node._machine._state.held
        await node._store.removal.drop(digest, lambda: True)
        assert digest not in node._machine._state.held


async def test_rules_for_signatures_hold_from_the_start_and_change_live(tmp_path: Path) -> None:
    key = tmp_path / "ci.pub"
    key.write_bytes(public_pem(make_key()))
    identity = FLEET.member("a", directory=tmp_path / "a")
    told = {"pattern": "**", "keys": [str(key)]}
    with Upstream() as upstream, trio.fail_after(LIMIT):
        image = upstream.add_image("library/pos", "42", layers=[b"layer"])
        reference = f"{upstream.address}/library/pos:42"
        settings = config(tmp_path / "a", upstream=upstream.address, signatures=[told])
        warning = config(tmp_path / "a", upstream=upstream.address, signatures=[{**told, "action": "warn"}])
        reloader = Reloader(settings, lambda: warning)
        async with running(settings, identity, reloader) as (node, _):
            with pytest.raises(DeniedError, match="has no signature"):
                [event async for event in node.pull(reference, pin=False)]
            assert [one for one in node.status().problems if "not signed as they must be" in one]
            assert node.images() == []
            assert "signatures" in (await reloader.reload()).changed
            assert [event async for event in node.pull(reference, pin=False)][-1].event == "done"
            (shown,) = node.images()
            assert (shown.digest, shown.signature) == (image.root, "warned")
            assert shown.signature_reason is not None
            assert shown.signature_reason.startswith("it has no signature")


async def test_a_rule_for_signatures_that_is_wrong_keeps_the_node_from_starting(tmp_path: Path) -> None:
    FLEET.member("a", directory=tmp_path / "a")
    settings = config(tmp_path / "a", signatures=[{"pattern": "**", "keys": [str(tmp_path / "gone")]}])
    with pytest.raises(ConfigError, match=r"rule 1 of signatures: .*gone can't be read"):
        await run_node(settings)
