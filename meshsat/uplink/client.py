"""Uplink: what a node can ask of upstream registries: manifests, sizes, and ranges of blobs.

Laws: a manifest's bytes have the digest that they were asked for or told under; nothing unbounded is read;
every WAN byte is counted, and rationed where a rate is set. Not here: which node of the site asks (leases),
whether blob bytes are right (their reader checks), how long an answer is believed (fetch.py).
"""

import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import structlog
import trio

from meshsat.config import UplinkSection
from meshsat.errors import DigestMismatchError, UnavailableError
from meshsat.limits import Gate, WanLimits
from meshsat.metrics import Metrics
from meshsat.oci import fields
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import SHA256, Digest
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from meshsat.oci.media_types import MANIFEST_TYPES, OCI_INDEX
from meshsat.oci.reference import parse_registry_untrusted, parse_repository_untrusted, parse_tag_untrusted
from meshsat.uplink import answers
from meshsat.uplink.allowance import Verdict
from meshsat.uplink.blob import BlobStream
from meshsat.uplink.meter import Meter
from meshsat.uplink.network import Line, WireError
from meshsat.uplink.patience import Patience, Sleep
from meshsat.uplink.upstreams import Ask, Upstreams
from meshsat.vault.vault import Vault

log = structlog.get_logger(__name__)

LOOK = 0.1
"""Seconds between two looks at what may pass, while quotas are being spent."""
IDLE_LOOK = 1.0
ACCEPT = ", ".join(sorted(MANIFEST_TYPES))
DIGEST_FIELD = "docker-content-digest"
PAGES = 16
"""Of a list of referrers."""

T = TypeVar("T")


class Uplink:
    """`async with`. One a node; any number of requests at a time."""

    def __init__(
        self,
        section: UplinkSection,
        metrics: Metrics,
        *,
        environ: Mapping[str, str] | None = None,
        rng: random.Random | None = None,
        sleep: Sleep = trio.sleep,
        wall_clock: Callable[[], float] = time.time,
        vault: Vault | None = None,
        directory: Path | None = None,
    ) -> None:
        """`environ` None: the process's own. `rng` and `sleep` are for the back-off. `directory`: where what
        was spent outlives the process; None: nowhere. Raises `ConfigError`."""
        self._section = section
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._sleep = sleep
        self.meter = Meter(
            section.limits,
            metrics,
            urgent=section.urgent,
            directory=directory,
            wall_clock=wall_clock,
        )
        self._upstreams = Upstreams(section, self.meter, environ, wall_clock, vault)
        self.on_gate: Callable[[Verdict], None] = lambda _verdict: None
        """Called with what may pass, at first and whenever that changes."""

    async def __aenter__(self) -> Self:
        """Raises `ConfigError`: a CA file that cannot be used."""
        await self._upstreams.open()
        await self.meter.books.load()
        return self

    async def __aexit__(self, *_: object) -> None:
        with trio.CancelScope(shield=True):  # closes sockets, writes a small file, waits for nobody
            await self._upstreams.aclose()
            await self.meter.books.close()

    async def run(self) -> None:
        """Run until cancelled: see when the gate opens and shuts, and keep the books."""
        meter, before = self.meter, None
        while True:
            meter.changed = trio.Event()
            verdict = meter.allowance.look()
            if before is None or verdict.gate is not before.gate:
                if verdict.gate is not Gate.OPEN:
                    log.warning("the uplink is not to be used", reason=str(verdict))
                elif before is not None:
                    log.info("the uplink may be used again")
                self.on_gate(verdict)
            before = verdict
            meter.show(verdict)
            await meter.books.save_if_due()
            await trio.sleep(LOOK)
            with trio.move_on_after(IDLE_LOOK - LOOK):
                await meter.changed.wait()

    # --- limits ---

    def set_section(self, section: UplinkSection) -> None:
        """The node's own limits are other ones."""
        self.meter.allowance.set_local(section.limits, section.urgent)
        self.meter.accounts.timezone = section.quota.timezone
        self.meter.apply()

    def limit(self, limits: WanLimits | None) -> None:
        """What a desired state allows beside the configuration: both are kept. None: it says nothing."""
        self.meter.allowance.set_fleet(limits)
        self.meter.apply()

    @property
    def up(self) -> bool | None:
        """Whether the last request got any answer; None before the first."""
        return self._upstreams.up

    @property
    def last_error(self) -> str | None:
        """What an operator should know: the latest failure that was not mended since."""
        return self._upstreams.last_error

    @property
    def problems(self) -> list[str]:
        """What else an operator should see to."""
        return self._upstreams.credentials.problems

    @property
    def failing_since(self) -> float | None:
        """On trio's clock, since when `last_error` stands."""
        return self._upstreams.failing_since

    @property
    def held_until(self) -> float | None:
        """On trio's clock, until when the registry of `last_error` asked to be left alone."""
        return self._upstreams.held_until

    def ignores_ranges(self, registry: str) -> bool:
        """True once `registry` answered a range with the whole: fetch its blobs in one go."""
        return self._upstreams.state(registry).ignores_ranges

    def line(self, tls: ssl.SSLContext | None, size: int) -> Line:
        """Connections for something that is no registry, counted and rationed with all others. The caller's
        to close."""
        return self._upstreams.line(tls, size)

    async def probe(self) -> None:
        """See whether any registry that is configured or was used can be reached: a TCP connection, no more.

        Raises `UnavailableError` if none can. Where none is known there is nothing to see, and all is
        well."""
        await self._upstreams.probe()

    async def manifest(
        self, registry: str, repository: str, reference: str, known: Manifest | None = None
    ) -> Manifest:
        """The manifest that a tag or digest means now. `known`: what the tag meant, if that is held whole;
        it is the answer where the upstream says that nothing changed, and no body is paid for.

        Raises `NotFoundError`, `DeniedError`, `UnavailableError`, `DigestMismatchError`, `InvalidInputError`
        (names, or what the upstream sent)."""
        wanted = Digest.parse_untrusted(reference) if ":" in reference else None
        path = f"manifests/{wanted or parse_tag_untrusted(reference)}"
        headers = {"Accept": ACCEPT}
        # Not so of a digest: distribution 2.8 answers 304 by the digest in the address alone, without a look
        # whether the repository has it.
        if known is not None and wanted is None:
            condition = {**headers, "If-None-Match": f'"{known.digest}"'}
            ask = _ask("manifest", registry, repository, path, headers=condition)
            found = await self._patiently(ask, lambda: self._manifest_untrusted(ask, None))
            if isinstance(found, Manifest):
                return found
            if answers.is_unmodified_untrusted(found.get("etag"), found.get(DIGEST_FIELD), known.digest):
                return known
        ask = _ask("manifest", registry, repository, path, headers=headers)
        found = await self._patiently(ask, lambda: self._manifest_untrusted(ask, wanted))
        assert isinstance(found, Manifest)  # noqa: S101 - without a condition there is no 304
        return found

    async def _manifest_untrusted(self, ask: Ask, wanted: Digest | None) -> Manifest | Mapping[str, str]:
        """The manifest, or the header of a 304."""
        limit = self._section.manifest_limit
        async with await self._upstreams.get(ask) as answer:
            raw = await answer.body_untrusted(limit)
        if answer.status == 304:
            return answer.headers
        told = answer.headers.get(DIGEST_FIELD)
        for digest in (wanted, Digest.parse_untrusted(told) if told else None):
            if digest is not None and not digest.matches(raw):
                raise DigestMismatchError(
                    f"{ask}: the upstream sent bytes that are not {digest}; they are not used"
                )
        algorithm = wanted.algorithm if wanted else SHA256
        return parse_manifest_untrusted(raw, answer.headers.get("content-type"), limit, algorithm)

    async def referrers(self, registry: str, repository: str, subject: Digest) -> list[Descriptor]:
        """What refers to a manifest, as the registry's own API lists it (end-12): `PAGES` pages at most.

        Raises as `manifest` does; `NotFoundError` where the registry has no such API."""
        found: dict[Digest, Descriptor] = {}
        query: str | None = ""
        pages = 0
        while query is not None and pages < PAGES:
            path = f"referrers/{subject}{query and '?'}{query}"
            ask = _ask("referrers", registry, repository, path, headers={"Accept": OCI_INDEX})
            listed, query = await self._patiently(ask, partial(self._page_untrusted, ask))
            found.update((one.digest, one) for one in listed)
            pages += 1
        return list(found.values())

    async def _page_untrusted(self, ask: Ask) -> tuple[list[Descriptor], str | None]:
        async with await self._upstreams.get(ask) as answer:
            raw = await answer.body_untrusted(self._section.manifest_limit)
        body = fields.parse_object_untrusted(raw, f"{ask}")
        listed = [Descriptor.parse_untrusted(item) for item in fields.take_objects(body, "manifests")]
        following = answers.next_page_untrusted(answer.url, answer.headers.get_list("link"))
        return [one for one in listed if one.is_manifest], following

    async def blob_size(self, registry: str, repository: str, digest: Digest) -> int:
        """The size of a blob in bytes, as the upstream has it. Raises as `manifest` does."""
        ask = _ask("size", registry, repository, f"blobs/{digest}", method="HEAD")
        return await self._patiently(ask, lambda: self._size_untrusted(ask))

    async def _size_untrusted(self, ask: Ask) -> int:
        async with await self._upstreams.get(ask) as answer:
            told = answer.headers.get("content-length")
        if told is not None:
            return answers.parse_length_untrusted(told)
        # No Content-Length, which the specification demands of a HEAD (end-2): a range tells it too.
        probe = Ask(ask.kind, ask.registry, ask.repository, ask.path, headers={"Range": "bytes=0-0"})
        async with await self._upstreams.get(probe) as answer:
            told = answer.headers.get("content-range" if answer.status != 200 else "content-length", "")
        if answer.status == 200:
            return answers.parse_length_untrusted(told)
        total = answers.parse_content_range_untrusted(told).total
        if total is None:
            raise UnavailableError(f"registry {ask.registry} does not tell the size of {ask}")
        return total

    def blob(
        self, registry: str, repository: str, digest: Digest, start: int, stop: int, size: int
    ) -> BlobStream:
        """The bytes `start` to `stop` (exclusive) of a blob of `size` bytes; see `BlobStream` for the rest.

        Raises `InvalidInputError` for a name that is none, `ValueError` for a range outside the blob."""
        if not 0 <= start <= stop <= size:
            raise ValueError(f"bytes {start} to {stop} are not within a blob of {size}")
        ask = _ask("blob", registry, repository, f"blobs/{digest}")
        return BlobStream(self._upstreams, self._patience(), ask, digest, range(start, stop), size)

    def _patience(self) -> Patience:
        return Patience(self._section, self._rng, self._sleep)

    async def _patiently(self, ask: Ask, attempt: Callable[[], Awaitable[T]]) -> T:
        patience = self._patience()
        while True:
            try:
                return await attempt()
            except WireError as fault:
                self._upstreams.failed(ask.registry, str(fault))
                await patience.after(fault)


def _ask(
    kind: str,
    registry: str,
    repository: str,
    path: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
) -> Ask:
    registry, repository = parse_registry_untrusted(registry), parse_repository_untrusted(repository)
    return Ask(kind, registry, repository, path, method, headers or {})
