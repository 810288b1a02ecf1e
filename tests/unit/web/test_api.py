import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
import trio
from trio.testing import MockClock

from meshsat.errors import (
    ConfigError,
    DeniedError,
    InvalidInputError,
    MeshsatError,
    NotFoundError,
    StorageError,
    UnavailableError,
)
from meshsat.http.server import UnixBind
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.oci.reference import Reference
from meshsat.planning import Planned
from meshsat.reload import Reloaded
from meshsat.status import (
    DesiredStatus,
    ImageStatus,
    MemberStatus,
    NodeStatus,
    PeerStatus,
    SatelliteStatus,
    ShadowReport,
    StateStatus,
    UplinkStatus,
    WanRow,
    WanStatus,
)
from meshsat.upkeep.sweep import Swept
from meshsat.upkeep.task import Collected
from meshsat.vault.vault import Vault
from meshsat.web.api import create_api, create_public_api
from meshsat.web.arguments import BODY_LIMIT
from meshsat.web.view import NodeView, PullEvent
from tests.asgi_client import Answer, call
from tests.recorded import Recorded
from tests.serving import served

STATUS = NodeStatus(
    peer="12D3KooWtest",
    name="till-1",
    fleet="acme",
    site="berlin",
    version="0",
    uptime=1.5,
    wan_bytes_in=1,
    wan_bytes_out=2,
    lan_bytes_in=3,
    lan_bytes_out=4,
    blobs=5,
    blob_bytes=6,
    images=7,
    peers=1,
    uplink=UplinkStatus(enabled=True, up=None),
    registry_address="127.0.0.1:5000",
)
PEER = PeerStatus(
    "12D3KooWother", "till-2", "berlin", "connected", "tls", ("10.0.0.2:4702",), True, 8, 9, 0.001
)
STATE = StateStatus(
    7, "sha256:aa", 1.0, 2.0, False, "a test", False, 1, 3.0, ("12D3KooWkey",), 1, None, None, (6, 7), 0, ()
)
IMAGE = ImageStatus("docker.io/library/pos:42", "sha256:aa", 10, 10, True, 1_800_000_000.0)


@dataclass
class Told:
    taken: bool
    resolved_at: float


async def told(steps: list[Planned | MeshsatError]) -> AsyncGenerator[Planned, None]:
    """What a plan says, one after the other."""
    for step in steps:
        if isinstance(step, MeshsatError):
            raise step
        yield step


MEMBER = MemberStatus("12D3KooWother", "till-2", "berlin", ("node",), "1f", 2e9, 1e9, "active")


@dataclass
class Revoked:
    whose: str

    def in_words(self) -> str:
        return "revoked on 2027-01-15 by the fleet's root"


class HeldState:
    """The desired state of a `View`."""

    next_revision = 8

    def __init__(self, view: "View") -> None:
        self._view = view

    def status(self) -> StateStatus:
        return STATE

    async def offer_untrusted(self, raw: bytes) -> int | None:
        if self._view.fault is not None:
            raise self._view.fault
        self._view.offered.append(raw)
        return 7

    async def file(self, revision: int | None) -> bytes:
        if self._view.fault is not None:
            raise self._view.fault
        return json.dumps({"roots": [], "asked": revision}).encode()


class View:
    """A node of which a test says everything."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.audit = Recorded()
        self.vault = Vault(Path("/nonexistent"), {})
        self.followed: SatelliteStatus | None = None
        self.counted: ShadowReport | None = None
        self.readiness = (True, "")
        self.events: list[PullEvent] = []
        self.fault: MeshsatError | None = None
        self.never_ends = False
        self.pulled: list[tuple[str, bool]] = []
        self.withdrawn = trio.Event()
        self.offered: list[bytes] = []
        self.invited: list[tuple[int, float]] = []
        self.steps: list[Planned | MeshsatError] = []
        self.states: list[bytes] = []
        self.plan_fault: MeshsatError | None = None
        self.revoked: list[tuple[str | None, str | None, str, bool]] = []
        self.tagged: list[tuple[str, str, float | None]] = []

    def status(self) -> NodeStatus:
        return STATUS

    def peers(self) -> list[PeerStatus]:
        return [PEER]

    def images(self) -> list[ImageStatus]:
        return [IMAGE]

    def wan(self) -> WanStatus:
        return WanStatus(enabled=True, gate="open", rows=(WanRow("up.example/pos", "blob", 1, 2, 3, 3),))

    def plan(self, raw: bytes) -> AsyncGenerator[Planned, None]:
        if self.plan_fault is not None:
            raise self.plan_fault
        self.states.append(raw)
        return told(self.steps)

    async def reload(self) -> Reloaded:
        if self.fault is not None:
            raise self.fault
        return Reloaded(("uplink.rate",), ("mesh.listen",))

    def desired(self) -> DesiredStatus:
        return DesiredStatus(7, ())

    def satellite(self) -> SatelliteStatus | None:
        return self.followed

    def shadow(self, nodes: int | None) -> ShadowReport | None:
        return replace(self.counted, nodes=nodes or 4) if self.counted is not None else None

    def ready(self) -> tuple[bool, str]:
        return self.readiness

    async def pull(self, reference: str, *, pin: bool) -> AsyncGenerator[PullEvent, None]:
        self.pulled.append((reference, pin))
        try:
            for event in self.events:
                yield event
            if self.fault is not None:
                raise self.fault
            if self.never_ends:
                await trio.sleep_forever()
        finally:
            self.withdrawn.set()

    async def tag(self, reference: Reference, digest: Digest, resolved_at: float | None) -> Told:
        if self.fault is not None:
            raise self.fault
        self.tagged.append((str(reference), str(digest), resolved_at))
        return Told(taken=True, resolved_at=resolved_at or 7.0)

    def holds(self, digest: Digest) -> bool:
        return digest == Digest.of(b"held")

    async def gc(self, *, dry_run: bool) -> Collected:
        if self.fault is not None:
            raise self.fault
        swept = Swept({Digest.of(b"old"): (3, "nothing refers to it")}, ["reg.test/pos:1"], 4)
        return Collected(swept, "cannot be known" if dry_run else None)

    @property
    def passes(self) -> "View":
        return self

    def members(self) -> list[MemberStatus]:
        return [MEMBER]

    def revoke(self, who: str | None, site: str | None, reason: str, *, issued: bool) -> Revoked:
        if self.fault is not None:
            raise self.fault
        self.revoked.append((who, site, reason, issued))
        return Revoked(who or f"site {site}")

    async def rotate(self) -> str:
        if self.fault is not None:
            raise self.fault
        return "12D3KooWnext"

    @property
    def desired_state(self) -> "HeldState":
        return HeldState(self)

    async def invite(self, *, uses: int, valid_seconds: float) -> str:
        if self.fault is not None:
            raise self.fault
        self.invited.append((uses, valid_seconds))
        return "meshsat-join-x"


@pytest.fixture
def view() -> View:
    return View()


async def get(view: NodeView, path: str) -> Answer:
    return await call(create_api(view), "GET", path)


async def post(view: NodeView, path: str, body: object = None, gone: trio.Event | None = None) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await call(create_api(view), "POST", path, body=raw, gone=gone)


def lines(answer: Answer) -> list[dict[str, object]]:
    return [json.loads(line) for line in answer.body.splitlines()]


async def test_healthz(view: View) -> None:
    view.readiness = (False, "no pass yet")
    answer = await get(view, "/healthz")
    assert (answer.status, answer.json) == (200, {"status": "ok"})


async def test_readyz_tells_why_not(view: View) -> None:
    answer = await get(view, "/readyz")
    assert (answer.status, answer.json["ready"]) == (200, True)
    view.readiness = (False, "no pass yet: run meshsat join")
    answer = await get(view, "/readyz")
    assert answer.status == 503
    assert answer.json == {"ready": False, "reason": "no pass yet: run meshsat join"}


async def test_metrics_are_in_the_text_format_of_prometheus(view: View) -> None:
    view.metrics.wan_in.inc(42)
    answer = await get(view, "/metrics")
    assert answer["content-type"].startswith("text/plain")
    assert b"meshsat_wan_received_bytes_total 42.0\n" in answer.body


async def test_the_public_api_has_no_verbs(view: View) -> None:
    app = create_public_api(view)
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await call(app, "GET", path)).status == 200
    for path in ("status", "peers", "images", "pull", "invite"):
        for method in ("GET", "POST"):
            assert (await call(app, method, f"/api/v1/{path}")).status == 404
    assert view.pulled == []


async def test_status(view: View) -> None:
    answer = await get(view, "/api/v1/status")
    assert answer.status == 200
    assert answer.json["wan_bytes_in"] == 1
    assert answer.json["uplink"] == {
        "enabled": True,
        "up": None,
        "last_error": None,
        "rate": 0,
        "failing_for": None,
        "retry_in": None,
        "gate": "open",
        "gate_reason": "",
        "opens_at": None,
    }


async def test_peers_and_images(view: View) -> None:
    peers = (await get(view, "/api/v1/peers")).json["peers"]
    assert peers[0]["name"] == "till-2"
    assert peers[0]["addresses"] == ["10.0.0.2:4702"]
    assert (await get(view, "/api/v1/desired")).json == {"version": 7, "images": []}
    images = (await get(view, "/api/v1/images")).json["images"]
    assert images[0]["reference"] == "docker.io/library/pos:42"


async def test_a_pull_streams_its_progress(view: View) -> None:
    progress = PullEvent("progress", "docker.io/library/busybox:latest", 10, 100)
    done = replace(progress, event="done", have_bytes=100, digest="sha256:aa")
    view.events = [progress, done]
    answer = await post(view, "/api/v1/pull", {"reference": "busybox", "pin": True})
    assert answer.status == 200
    assert answer["content-type"] == "application/x-ndjson"
    assert [line["event"] for line in lines(answer)] == ["progress", "done"]
    assert lines(answer)[1]["digest"] == "sha256:aa"
    assert answer.pieces[0].endswith(b"\n")
    assert answer.complete
    assert view.pulled == [("docker.io/library/busybox:latest", True)]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (NotFoundError("no such tag"), "not_found"),
        (UnavailableError("uplink down"), "unavailable"),
        (DeniedError("credentials refused"), "denied"),
        (StorageError("disk full"), "failed"),
    ],
)
async def test_a_pull_that_fails_ends_in_an_error_line(view: View, fault: MeshsatError, code: str) -> None:
    view.fault = fault
    answer = await post(view, "/api/v1/pull", {"reference": "busybox"})
    (line,) = lines(answer)
    assert (line["event"], line["code"], line["message"]) == ("error", code, str(fault))
    assert answer.complete


async def test_a_client_that_goes_away_cancels_its_pull(view: View, autojump_clock: MockClock) -> None:
    view.events = [PullEvent("progress", "x")]
    view.never_ends = True
    gone = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(post, view, "/api/v1/pull", {"reference": "busybox"}, gone)
        await trio.testing.wait_all_tasks_blocked()
        assert not view.withdrawn.is_set()
        gone.set()
        await view.withdrawn.wait()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"busybox"',
        b"\xff",
        b"{}",
        b"[" * 10_000,
        b'{"reference": "a", "reference": "b"}',
        {"reference": 1},
        {"reference": "UPPER/case"},
        {"reference": "a", "pin": 1},
        {"reference": "a", "force": True},
        {"reference": "a" * BODY_LIMIT},
    ],
)
async def test_a_malformed_pull_starts_nothing(view: View, body: object) -> None:
    answer = await post(view, "/api/v1/pull", body)
    assert answer.status == 400
    assert answer.json["error"]["code"] == "invalid"
    assert answer.json["error"]["message"]
    assert view.pulled == []


DIGEST = str(Digest.of(b"manifest"))


async def test_tag(view: View) -> None:
    told = {"reference": "harbor.example/pos/app:42", "digest": DIGEST}
    answer = await post(view, "/api/v1/tag", told)
    assert (answer.status, answer.json) == (200, {"taken": True, "resolved_at": 7.0})
    await post(view, "/api/v1/tag", {**told, "resolved_at": 1_700_000_000})
    reference = told["reference"]
    assert view.tagged == [(reference, DIGEST, None), (reference, DIGEST, 1_700_000_000.0)]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reference": "a/b:c"},
        {"digest": DIGEST},
        {"reference": "a/b:c", "digest": "sha256:no"},
        {"reference": "UPPER/case", "digest": DIGEST},
        {"reference": "a/b:c", "digest": DIGEST, "resolved_at": -1},
        {"reference": "a/b:c", "digest": DIGEST, "resolved_at": "now"},
    ],
)
async def test_a_malformed_tag_is_told_to_nobody(view: View, body: object) -> None:
    answer = await post(view, "/api/v1/tag", body)
    assert answer.status == 400
    assert answer.json["error"]["code"] == "invalid"
    assert view.tagged == []


async def test_held(view: View) -> None:
    held, other = str(Digest.of(b"held")), str(Digest.of(b"other"))
    answer = await post(view, "/api/v1/held", {"digests": [other, held]})
    assert (answer.status, answer.json) == (200, {"held": [held]})
    assert (await post(view, "/api/v1/held", {})).json == {"held": []}
    for body in ({"digests": "x"}, {"digests": ["x"]}, {"digests": [1]}):
        assert (await post(view, "/api/v1/held", body)).status == 400


async def test_members(view: View) -> None:
    (member,) = (await get(view, "/api/v1/members")).json["members"]
    assert (member["peer"], member["roles"], member["state"]) == ("12D3KooWother", ["node"], "active")


async def test_revoke_and_rotate(view: View) -> None:
    answer = await post(view, "/api/v1/revoke", {"member": "till-2", "reason": "stolen"})
    assert answer.json == {"whose": "till-2", "text": "revoked on 2027-01-15 by the fleet's root"}
    await post(view, "/api/v1/revoke", {"site": "berlin", "issued": True})
    assert view.revoked == [("till-2", None, "stolen", False), (None, "berlin", "", True)]
    assert (await post(view, "/api/v1/rotate", {})).json == {"peer": "12D3KooWnext"}
    assert (await post(view, "/api/v1/rotate", {"key": "x"})).status == 400
    view.fault = DeniedError("this node is no enroller")
    for path in ("revoke", "rotate"):
        assert (await post(view, f"/api/v1/{path}", {})).status == 403


async def test_invite(view: View) -> None:
    answer = await post(view, "/api/v1/invite", {"uses": 3, "valid_seconds": 60})
    assert (answer.status, answer.json) == (200, {"token": "meshsat-join-x"})
    await post(view, "/api/v1/invite", {})
    assert view.invited == [(3, 60.0), (1, 3600.0)]


@pytest.mark.parametrize(
    "body",
    [
        {"uses": 0},
        {"uses": 10**9},
        {"uses": True},
        {"uses": 1.5},
        {"valid_seconds": 0},
        {"valid_seconds": -1},
        {"valid_seconds": 1e300},
        {"valid_seconds": "1h"},
        b'{"valid_seconds": NaN}',
    ],
)
async def test_a_malformed_invitation_is_refused(view: View, body: object) -> None:
    answer = await post(view, "/api/v1/invite", body)
    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid")
    assert view.invited == []


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (InvalidInputError("x"), 400, "invalid"),
        (DeniedError("no enroller"), 403, "denied"),
        (NotFoundError("x"), 404, "not_found"),
        (UnavailableError("x"), 503, "unavailable"),
        (MeshsatError("x"), 500, "failed"),
    ],
)
async def test_errors_are_json_with_a_code(view: View, fault: MeshsatError, status: int, code: str) -> None:
    view.fault = fault
    answer = await post(view, "/api/v1/invite", {})
    assert answer.status == status
    assert answer.json == {"error": {"code": code, "message": str(fault)}}


async def test_what_is_no_route_or_method_is_told_as_json(view: View) -> None:
    answer = await get(view, "/nothing")
    assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")
    answer = await get(view, "/api/v1/pull")
    assert (answer.status, answer.json["error"]["code"]) == (405, "method_not_allowed")
    assert "POST" in answer["allow"]


async def test_gc(view: View) -> None:
    answer = await post(view, "/api/v1/gc", {})
    assert (answer.status, answer.json) == (
        200,
        {
            "dry_run": False,
            "refused": None,
            "freed_bytes": 7,
            "images": ["reg.test/pos:1"],
            "blobs": 1,
            "partial_bytes": 4,
            "largest": [{"digest": str(Digest.of(b"old")), "size": 3, "reason": "nothing refers to it"}],
        },
    )
    answer = await post(view, "/api/v1/gc", {"dry_run": True})
    assert (answer.json["dry_run"], answer.json["refused"]) == (True, "cannot be known")
    assert (await post(view, "/api/v1/gc", {"dry_run": 1})).status == 400
    view.fault = StorageError("the disk is gone")
    answer = await post(view, "/api/v1/gc", {})
    assert (answer.status, answer.json["error"]["message"]) == (500, "the disk is gone")


async def test_a_defect_is_told_without_its_details_and_raised_on(view: View) -> None:
    class Faulty(View):
        def status(self) -> NodeStatus:
            raise ZeroDivisionError("secret")

    seen: list[Answer] = []

    async def on_piece(answer: Answer) -> None:
        seen.append(answer)

    with pytest.raises(ZeroDivisionError):
        await call(create_api(Faulty()), "GET", "/api/v1/status", on_piece=on_piece)
    assert seen[0].status == 500
    assert seen[0].json["error"]["code"] == "failed"
    assert b"secret" not in seen[0].body


async def test_over_a_unix_socket_a_closed_connection_ends_the_pull(view: View, tmp_path: Path) -> None:
    """As the command line uses it: httpx on `api.sock`."""
    view.events = [PullEvent("progress", "x", 1, 2)]
    view.never_ends = True
    socket = tmp_path / "api.sock"
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    async with (
        served(create_api(view), UnixBind(socket)),
        httpx.AsyncClient(transport=transport, base_url="http://node") as client,
    ):
        assert (await client.get("/api/v1/status")).json()["name"] == "till-1"
        async with client.stream("POST", "/api/v1/pull", json={"reference": "busybox"}) as response:
            first = await anext(response.aiter_lines())
            assert json.loads(first)["have_bytes"] == 1
            assert not view.withdrawn.is_set()
        with trio.fail_after(5):
            await view.withdrawn.wait()


async def test_what_changes_something_is_recorded(view: View) -> None:
    await post(view, "/api/v1/pull", {"reference": "docker.io/library/pos:42"})
    assert view.audit.entries == []
    await post(view, "/api/v1/pull", {"reference": "docker.io/library/pos:42", "pin": True})
    tag = {"reference": "docker.io/library/pos:42", "digest": str(Digest.of(b"held"))}
    await post(view, "/api/v1/tag", tag)
    await post(view, "/api/v1/invite", {})
    view.fault = NotFoundError("not here")
    await post(view, "/api/v1/tag", tag)
    await post(view, "/api/v1/pull", {"reference": "docker.io/library/pos:42", "pin": True})
    assert [(entry.event, entry.outcome) for entry in view.audit.entries] == [
        ("image.pin", "success"),
        ("tag.update", "success"),
        ("token.create", "success"),
        ("tag.update", "failure"),
        ("image.pin", "failure"),
    ]
    assert {entry.actor.kind for entry in view.audit.entries} == {"operator"}
    assert "meshsat-join-" not in repr(view.audit.entries)


async def test_a_satellite_that_is_followed_and_a_shadow_that_counts(view: View) -> None:
    for path in ("/api/v1/satellite", "/api/v1/shadow"):
        assert (await get(view, path)).status == 404
    view.followed = SatelliteStatus("till-7", None, True, False, None, None, None, None, None, 30.0)
    view.counted = ShadowReport(0, None, 10, 40, 20, 1, 30)
    assert (await get(view, "/api/v1/satellite")).json["name"] == "till-7"
    assert (await get(view, "/api/v1/shadow")).json["nodes"] == 4
    assert (await get(view, "/api/v1/shadow?nodes=9")).json["nodes"] == 9
    for wrong in ("0", "-1", "x", "", "1e3", "1000000", "%C2%B2"):
        assert (await get(view, f"/api/v1/shadow?nodes={wrong}")).status == 400


async def test_what_went_over_the_wan(view: View) -> None:
    answer = await get(view, "/api/v1/wan")
    assert answer.status == 200
    told = json.loads(answer.body)
    assert told["gate"] == "open"
    assert told["rows"] == [
        {"image": "up.example/pos", "purpose": "blob", "bytes_in": 1, "bytes_out": 2, "day": 3, "month": 3}
    ]


async def test_a_reload_tells_what_changed_and_what_is_wrong(view: View) -> None:
    answer = await post(view, "/api/v1/reload", {})
    assert json.loads(answer.body) == {"changed": ["uplink.rate"], "restart": ["mesh.listen"]}
    (entry,) = view.audit.entries
    assert (entry.event, entry.reason) == ("configuration.reload", "changed: uplink.rate")
    view.fault = ConfigError("uplink.rate: must be a number")
    answer = await post(view, "/api/v1/reload", {})
    assert answer.status == 400
    assert json.loads(answer.body)["error"] == {"code": "invalid", "message": "uplink.rate: must be a number"}
    assert (await post(view, "/api/v1/reload", {"force": True})).status == 400
