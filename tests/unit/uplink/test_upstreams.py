"""Logins, redirects, statuses, and what an operator is told, against a registry that misbehaves."""

import json
from functools import partial
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from meshsat.config import UplinkSection, UpstreamRegistry
from meshsat.errors import ConfigError, DeniedError, InvalidInputError, NotFoundError, UnavailableError
from meshsat.limits import WanLimits
from meshsat.metrics import Metrics
from meshsat.uplink.client import Uplink
from meshsat.uplink.meter import Meter
from meshsat.uplink.upstreams import Upstreams
from meshsat.vault.machine_keys import KEY_FILE
from meshsat.vault.vault import Vault
from tests.certificates import PrivateCA
from tests.unit.uplink.conftest import REPOSITORY, Connect
from tests.upstream import Fault, Upstream, Users

PASSWORDS = {"bob": "hunter2"}


def docker_config(tmp_path: Path, up: Upstream, name: str = "bob", password: str = "hunter2") -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {up.address: {"username": name, "password": password}}}))
    return path


# Logins.


async def test_anonymous_token(connect: Connect) -> None:
    with Upstream(users=Users(anonymous=True)) as up:
        image = up.add_image(REPOSITORY, "42")
        async with connect(up) as wired:
            assert (await wired.uplink.manifest(up.address, REPOSITORY, "42")).raw == image.raw
            await wired.uplink.manifest(up.address, REPOSITORY, image.root)
        assert [r.path for r in up.requests].count("/token") == 1
        assert len(up.asked("/manifests/")) == 3  # the first one met the challenge


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
async def test_login(scheme: str, connect: Connect, tmp_path: Path, data: bytes) -> None:
    with Upstream(users=Users(scheme, PASSWORDS)) as up:
        up.add_image(REPOSITORY, "42", [data])
        async with connect(up, docker_config=docker_config(tmp_path, up)) as wired:
            manifest = await wired.uplink.manifest(up.address, REPOSITORY, "42")
            assert await wired.uplink.blob_size(up.address, REPOSITORY, manifest.blobs[1].digest) == len(data)
            assert await wired.read(up, data) == data
        assert up.requests[0].authorization is None
        assert len([r for r in up.requests if r.authorization is None]) == 1


async def test_many_at_once_fetch_one_token(connect: Connect) -> None:
    with Upstream(users=Users(anonymous=True)) as up:
        up.add_image(REPOSITORY, "42")
        async with connect(up) as wired, trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(wired.uplink.manifest, up.address, REPOSITORY, "42")
        assert len(up.asked("/token")) == 1


async def test_revoked_token_is_replaced_once(connect: Connect) -> None:
    with Upstream(users=Users(anonymous=True)) as up:
        up.add_image(REPOSITORY, "42")
        async with connect(up) as wired:
            await wired.uplink.manifest(up.address, REPOSITORY, "42")
            up.revoke_tokens()
            await wired.uplink.manifest(up.address, REPOSITORY, "42")
        assert len(up.asked("/token")) == 2


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
async def test_wrong_password_is_said_without_saying_it(
    scheme: str, connect: Connect, tmp_path: Path
) -> None:
    with Upstream(users=Users(scheme, PASSWORDS)) as up, capture_logs() as logs:
        up.add_image(REPOSITORY, "42")
        async with connect(up, docker_config=docker_config(tmp_path, up, password="topsecret")) as wired:
            with pytest.raises(DeniedError, match=r"does not let bob \(from .*\) pull library/pos") as denied:
                await wired.uplink.manifest(up.address, REPOSITORY, "42")
            assert wired.uplink.last_error == str(denied.value)
            assert wired.uplink.up is True
        assert len(up.requests) <= 3
    assert "topsecret" not in str(denied.value) + str(logs)


async def test_a_login_is_needed(connect: Connect) -> None:
    with Upstream(users=Users("bearer", PASSWORDS)) as up:
        up.add_image(REPOSITORY, "42")
        async with connect(up) as wired:
            with pytest.raises(DeniedError, match=r"anonymous client pull library/pos; .*meshsat login"):
                await wired.uplink.manifest(up.address, REPOSITORY, "42")


async def test_a_token_that_is_not_honoured(connect: Connect) -> None:
    with Upstream(users=Users(anonymous=True)) as up:
        up.add_image(REPOSITORY, "42")
        up.add_fault(Fault("/token", times=None, body=b'{"token":"wrong"}'))
        async with connect(up) as wired:
            with pytest.raises(DeniedError):
                await wired.uplink.manifest(up.address, REPOSITORY, "42")
        assert len(up.requests) == 3


async def test_busy_token_service_is_asked_again(connect: Connect) -> None:
    with Upstream(users=Users(anonymous=True)) as up:
        up.add_image(REPOSITORY, "42")
        up.add_fault(Fault("/token", status=503))
        async with connect(up) as wired:
            await wired.uplink.manifest(up.address, REPOSITORY, "42")
            assert len(wired.pauses) == 1


async def test_no_login_over_plain_http_for_a_registry_with_tls(connect: Connect, tmp_path: Path) -> None:
    ca = PrivateCA(tmp_path)
    with Upstream() as thief:
        users = Users("bearer", PASSWORDS, realm=f"http://{thief.address}/token")
        with Upstream(users=users, tls=ca.server_context("127.0.0.1")) as up:
            up.add_image(REPOSITORY, "42")
            entry = UpstreamRegistry(host=up.address, ca_file=ca.ca_file)
            async with connect(up, registries=(entry,), docker_config=docker_config(tmp_path, up)) as wired:
                with pytest.raises(DeniedError, match=f"http://{thief.address} is not https"):
                    await wired.uplink.manifest(up.address, REPOSITORY, "42")
        assert thief.requests == []


# Redirects.


async def test_storage_elsewhere_gets_no_login(connect: Connect, tmp_path: Path, data: bytes) -> None:
    with Upstream() as storage, Upstream(users=Users("basic", PASSWORDS), redirect=storage) as up:
        up.add_image(REPOSITORY, "42", [data])
        async with connect(up, docker_config=docker_config(tmp_path, up)) as wired:
            assert await wired.read(up, data, 1000, 5000) == data[1000:5000]
        [request] = storage.requests
        assert request.authorization is None
        assert request.headers["range"] == "bytes=1000-4999"
        assert up.requests[-1].authorization is not None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_all_redirects_are_followed_and_the_own_origin_keeps_the_login(
    status: int, connect: Connect, tmp_path: Path
) -> None:
    with Upstream(users=Users("basic", PASSWORDS)) as up:
        image = up.add_image(REPOSITORY, "42")
        moved = {"Location": f"/v2/{REPOSITORY}/manifests/42"}
        up.add_fault(Fault("/manifests/old", times=2, status=status, headers=moved))
        async with connect(up, docker_config=docker_config(tmp_path, up)) as wired:
            assert str((await wired.uplink.manifest(up.address, REPOSITORY, "old")).digest) == image.root


async def test_redirects_are_bounded(connect: Connect) -> None:
    with Upstream() as up:
        moved = {"Location": f"/v2/{REPOSITORY}/manifests/42?again"}
        up.add_fault(Fault("/manifests/", times=None, status=302, headers=moved))
        async with connect(up) as wired:
            with pytest.raises(UnavailableError, match="more than 5 times"):
                await wired.uplink.manifest(up.address, REPOSITORY, "42")
        assert len(up.requests) == 6


@pytest.mark.parametrize(
    "location", ["", "ftp://x.test/secret", "http://u:secret@x.test/", "http://x.test:99999/"]
)
async def test_redirects_to_nowhere(location: str, connect: Connect, up: Upstream) -> None:
    up.add_fault(Fault("/manifests/", times=None, status=302, headers={"Location": location}))
    async with connect(up) as wired:
        with pytest.raises(UnavailableError) as failed:
            await wired.uplink.manifest(up.address, REPOSITORY, "42")
    assert "secret" not in str(failed.value)
    assert len(up.requests) == 1


async def test_no_downgrade_to_plain_http(connect: Connect, tmp_path: Path, data: bytes) -> None:
    ca = PrivateCA(tmp_path)
    with Upstream() as storage, Upstream(redirect=storage, tls=ca.server_context("127.0.0.1")) as up:
        up.add_image(REPOSITORY, "42", [data])
        entries = (
            UpstreamRegistry(host=up.address, ca_file=ca.ca_file),
            UpstreamRegistry(host=storage.address, plain_http=True),
        )
        async with connect(up, registries=entries) as wired:
            with pytest.raises(
                DeniedError, match=f"redirects .* to http://{storage.address}, which is not https"
            ):
                await wired.read(up, data)
        assert storage.requests == []


async def test_private_ca_holds_for_where_the_registry_sends_us(
    connect: Connect, tmp_path: Path, data: bytes
) -> None:
    tls = PrivateCA(tmp_path).server_context("127.0.0.1")
    with Upstream(tls=tls) as storage, Upstream(redirect=storage, tls=tls) as up:
        up.add_image(REPOSITORY, "42", [data])
        entry = UpstreamRegistry(host=up.address, ca_file=tmp_path / "ca.pem")
        async with connect(up, registries=(entry,)) as wired:
            assert await wired.read(up, data) == data


async def test_an_address_that_ran_out_is_asked_for_again(connect: Connect, data: bytes) -> None:
    with Upstream() as storage, Upstream(redirect=storage) as up, capture_logs() as logs:
        up.add_image(REPOSITORY, "42", [data])
        storage.add_fault(Fault(status=403))
        async with connect(up) as wired:
            assert await wired.read(up, data) == data
        assert len(up.asked("/blobs/")) == 2
    assert "answered 403" in str(logs)
    assert "topsecret" not in str(logs)


# Statuses.


async def test_not_there(connect: Connect, up: Upstream) -> None:
    up.add_image(REPOSITORY, "42")
    async with connect(up) as wired:
        with pytest.raises(NotFoundError) as missing:
            await wired.uplink.manifest(up.address, REPOSITORY, "43")
        assert str(missing.value) == (
            f"registry {up.address} has no manifest 43 of library/pos (MANIFEST_UNKNOWN: manifest unknown); "
            "check the name, or push it first"
        )
        assert wired.uplink.up is True
        assert wired.uplink.last_error is None
    assert len(up.requests) == 1


@pytest.mark.parametrize(
    "fault", [Fault(status=500, times=3), Fault(reset=True, times=3), Fault(status=429, times=3)]
)
async def test_tried_again(fault: Fault, connect: Connect, up: Upstream) -> None:
    image = up.add_image(REPOSITORY, "42")
    up.add_fault(fault)
    async with connect(up, attempts=4) as wired:
        assert (await wired.uplink.manifest(up.address, REPOSITORY, "42")).raw == image.raw
        assert len(wired.pauses) == 3
        assert wired.uplink.last_error is None


async def test_given_up_after_the_tries(connect: Connect, up: Upstream) -> None:
    up.add_fault(Fault(status=502, times=None))
    async with connect(up, attempts=3) as wired:
        with pytest.raises(
            UnavailableError, match=r"answered manifest 42 of .* with status 502 \(FAULT: as ordered\)"
        ):
            await wired.uplink.manifest(up.address, REPOSITORY, "42")
    assert len(up.requests) == 3


@pytest.mark.parametrize(
    ("status", "error"), [(403, DeniedError), (400, UnavailableError), (418, UnavailableError)]
)
async def test_not_tried_again(status: int, error: type[Exception], connect: Connect, up: Upstream) -> None:
    up.add_fault(Fault(status=status, times=None))
    async with connect(up) as wired:
        with pytest.raises(error, match="as ordered"):
            await wired.uplink.manifest(up.address, REPOSITORY, "42")
    assert len(up.requests) == 1


async def test_short_retry_after_is_sat_out(connect: Connect, up: Upstream) -> None:
    up.add_image(REPOSITORY, "42")
    up.add_fault(Fault(status=429, headers={"Retry-After": "7"}))
    up.add_fault(Fault(status=503, headers={"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}))
    up.add_fault(Fault(status=503, headers={"Retry-After": "nonsense"}))
    async with connect(up, wall_clock=lambda: 784111777.0 - 3.0) as wired:
        await wired.uplink.manifest(up.address, REPOSITORY, "42")
        assert wired.pauses[:2] == [7.0, 3.0]
        assert wired.pauses[2] < 1.1


async def test_long_retry_after_is_told_and_kept(connect: Connect, up: Upstream) -> None:
    up.add_image(REPOSITORY, "42")
    up.add_fault(Fault(status=429, headers={"Retry-After": "120"}))
    async with connect(up) as wired:
        with pytest.raises(UnavailableError, match="asks for 120 s of patience") as told:
            await wired.uplink.manifest(up.address, REPOSITORY, "42")
        assert told.value.retry_after == 120.0
        with pytest.raises(UnavailableError, match=r"asked to be left alone for 1[12]. s more") as told:
            await wired.uplink.manifest(up.address, REPOSITORY, "42")
        assert told.value.retry_after == pytest.approx(120.0, abs=5)
        assert wired.pauses == []
        now = trio.current_time()
        assert wired.uplink.failing_since == pytest.approx(now, abs=10)
        assert wired.uplink.held_until == pytest.approx(now + 120, abs=10)
    assert len(up.requests) == 1


# What an operator is told.


async def test_up_and_last_error(connect: Connect) -> None:
    with Upstream() as up:
        up.add_image(REPOSITORY, "42")
        async with connect(up, attempts=2) as wired:
            gauge = wired.metrics.registry.get_sample_value
            assert (wired.uplink.up, wired.uplink.last_error) == (None, None)
            await wired.uplink.manifest(up.address, REPOSITORY, "42")
            assert (wired.uplink.up, wired.uplink.last_error, gauge("meshsat_uplink_up")) == (True, None, 1)
            up.close()
            with capture_logs() as logs, pytest.raises(UnavailableError):
                await wired.uplink.manifest(up.address, REPOSITORY, "42")
            assert wired.uplink.up is False
            assert gauge("meshsat_uplink_up") == 0
            assert f"registry {up.address}: {up.address} refuses connections" in str(wired.uplink.last_error)
            assert [log["event"] for log in logs].count("upstream failed") == 1
            with Upstream() as other:
                other.add_image(REPOSITORY, "42")
                with pytest.raises(UnavailableError, match=r"does not speak TLS; .* set plain_http"):
                    await wired.uplink.manifest(other.address, REPOSITORY, "42")


async def test_requests_are_counted_by_kind_and_outcome(connect: Connect, up: Upstream) -> None:
    up.add_image(REPOSITORY, "42")
    async with connect(up) as wired:
        await wired.uplink.manifest(up.address, REPOSITORY, "42")
        with pytest.raises(NotFoundError):
            await wired.uplink.manifest(up.address, REPOSITORY, "43")
        for status in ("200", "404"):
            labels = {"kind": "manifest", "outcome": status}
            assert wired.metrics.registry.get_sample_value("meshsat_wan_requests_total", labels) == 1


async def test_uplink_that_is_off(connect: Connect, up: Upstream) -> None:
    async with connect(up, enabled=False) as wired:
        with pytest.raises(UnavailableError, match=r"uplink\.enabled = false"):
            await wired.uplink.manifest(up.address, REPOSITORY, "42")
        assert wired.uplink.up is None
    assert up.accepted == 0


async def test_ca_file_that_cannot_be_used(tmp_path: Path) -> None:
    for content in (None, "nonsense"):
        ca_file = tmp_path / f"{content}.pem"
        if content is not None:
            ca_file.write_text(content)
        section = UplinkSection(registries=(UpstreamRegistry(host="reg.test", ca_file=ca_file),))
        with pytest.raises(ConfigError, match=r"ca_file .*\.pem cannot be used"):
            async with Uplink(section, Metrics()):
                pass


@pytest.mark.parametrize(
    ("registry", "repository", "reference"),
    [
        ("evil.test@127.0.0.1", "a", "b"),
        ("evil.test/v2", "a", "b"),
        ("evil.test?x", "a", "b"),
        ("reg.test", "../../token", "b"),
        ("reg.test", "a", "../b"),
        ("reg.test", "a", "sha256:xyz"),
        ("", "a", "b"),
    ],
)
async def test_names_that_are_none(registry: str, repository: str, reference: str, connect: Connect) -> None:
    async with connect() as wired:
        with pytest.raises(InvalidInputError):
            await wired.uplink.manifest(registry, repository, reference)


def test_docker_hub_is_where_it_is() -> None:
    upstreams = Upstreams(UplinkSection(), Meter(WanLimits(), Metrics()), {})
    assert str(upstreams._origin("docker.io")) == "https://registry-1.docker.io/"
    assert str(upstreams._origin("[::1]:5000")) == "https://[::1]:5000/"


async def test_registries_remembered_are_bounded() -> None:
    upstreams = Upstreams(UplinkSection(), Meter(WanLimits(), Metrics()), {})
    for n in range(1000):
        upstreams.failed(f"r{n}.test", "down")
    assert len(upstreams._states) == 256
    assert upstreams.last_error == "down"


async def test_a_login_kept_and_forgotten_while_running_counts_from_the_next_request(tmp_path: Path) -> None:
    users = Users("basic", {"bob": "hunter2"})
    with Upstream(users=users) as upstream:
        upstream.add_image("library/pos", "42")
        vault = Vault(tmp_path, {})
        section = UplinkSection(registries=(UpstreamRegistry(host=upstream.address, plain_http=True),))
        async with Uplink(section, Metrics(), environ={}, vault=vault) as uplink:
            ask = partial(uplink.manifest, upstream.address, "library/pos", "42")
            with pytest.raises(DeniedError, match=f"meshsat login {upstream.address}"):
                await ask()
            vault.put(upstream.address, "bob", "wrong")
            with pytest.raises(DeniedError, match=r"bob \(from meshsat login\)"):
                await ask()
            vault.put(upstream.address, "bob", "hunter2")
            await ask()
            vault.forget(upstream.address)
            with pytest.raises(DeniedError, match="anonymous"):
                await ask()
            vault.put(upstream.address, "bob", "hunter2")
            (vault.directory / KEY_FILE).unlink()
            with pytest.raises(DeniedError, match=r"cannot be opened.*meshsat login"):
                await ask()
