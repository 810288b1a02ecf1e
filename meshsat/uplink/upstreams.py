"""Upstreams: one exchange with a registry: login, redirects, and what its status means.

Laws: plain HTTP only with a registry that is configured so, and never from https to it; the Authorization
header goes to the registry's own origin only; a failure tells what, where, and what to do. One try: the
patience of several is patience.py's. It keeps what `status` shows: whether the uplink is up, and what failed.
"""

import os
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import structlog
import trio

from meshsat.config import UplinkSection
from meshsat.errors import ConfigError, DeniedError, InvalidInputError, NotFoundError, UnavailableError
from meshsat.oci.reference import DOCKER_HUB, parse_registry_untrusted
from meshsat.uplink import answers
from meshsat.uplink.accounts import PURPOSE, Purpose
from meshsat.uplink.auth import Authenticator, TokenRequest
from meshsat.uplink.credentials import Credentials
from meshsat.uplink.meter import Meter
from meshsat.uplink.network import Answer, Line, WireError, origin_of
from meshsat.uplink.sockets import connect
from meshsat.vault.vault import Vault

log = structlog.get_logger(__name__)

DOCKER_HUB_HOST = "registry-1.docker.io"
REDIRECTS = 5
ERROR_LIMIT = 64 * 1024
"""Bytes of a body that is not content."""
ASK_CONNECTIONS = 8
"""For what is small: manifests, tokens, sizes never wait behind blobs."""
HOLD_LIMIT = 300.0
"""Seconds for which a registry is left alone at most, however long it asks us to wait."""
PROBES = 4
"""Registries that are tried to see whether the uplink works."""
PROBE_TIMEOUT = 3.0
_REMEMBERED = 256
"""Registries of which something is remembered."""
_REDIRECT = frozenset({301, 302, 303, 307, 308})
_UNSUPPORTED = frozenset({400, 405, 406, 501})
"""What registries say too of an API that they do not have."""
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})

_Trust = tuple[Path | None, bool]
"""A CA file, and whether the system's CAs are trusted too."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to a registry's API."""

    kind: str
    """For the metrics: manifest, blob, size or referrers."""
    registry: str
    repository: str
    path: str
    """Below `/v2/REPOSITORY/`."""
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        what, _, name = self.path.partition("/")
        return f"{what.removesuffix('s')} {name} of {self.repository}"


@dataclass(slots=True)
class _State:
    """What is remembered of one registry."""

    error: str | None = None
    failing_since: float = 0.0
    """trio's clock; while there is an error."""
    held_until: float = 0.0
    """trio's clock."""
    ignores_ranges: bool = False


class Upstreams:
    def __init__(
        self,
        section: UplinkSection,
        meter: Meter,
        environ: Mapping[str, str] | None = None,
        wall_clock: Callable[[], float] = time.time,
        vault: Vault | None = None,
    ) -> None:
        """Raises `ConfigError`. `wall_clock` (Unix seconds) reads dates in `Retry-After`."""
        self._section = section
        self._meter = meter
        self._metrics = meter.metrics
        self._wall_clock = wall_clock
        self._entries = {entry.host.lower(): entry for entry in section.registries}
        plain = frozenset(host for host, entry in self._entries.items() if entry.plain_http)
        self.credentials = Credentials(section, os.environ if environ is None else environ, vault)
        self._auth = Authenticator(self.credentials, self._exchange_token, plain)
        self._tls: dict[_Trust, ssl.SSLContext] = {}
        self._lines: dict[tuple[_Trust | None, bool], Line] = {}
        self._states: OrderedDict[str, _State] = OrderedDict()
        self.up: bool | None = None

    async def open(self) -> None:
        """Read the registries' own CAs. Raises `ConfigError`."""
        for ca_file in {entry.ca_file for entry in self._entries.values() if entry.ca_file is not None}:
            for system in (False, True):
                self._tls[ca_file, system] = await trio.to_thread.run_sync(_tls, ca_file, system)

    def line(self, tls: ssl.SSLContext | None, size: int) -> Line:
        return Line(self._meter, tls, size)

    async def aclose(self) -> None:
        for line in self._lines.values():
            await line.aclose()
        self._lines.clear()

    @property
    def last_error(self) -> str | None:
        """The latest failure of a registry that has not answered properly since."""
        return next((s.error for s in reversed(self._states.values()) if s.error is not None), None)

    @property
    def failing_since(self) -> float | None:
        """On trio's clock, since when there is the `last_error`."""
        return next((s.failing_since for s in reversed(self._states.values()) if s.error is not None), None)

    @property
    def held_until(self) -> float | None:
        """On trio's clock, until when the registry of the `last_error` asked to be left alone."""
        held = next((s.held_until for s in reversed(self._states.values()) if s.error is not None), 0.0)
        return held if held > trio.current_time() else None

    def state(self, registry: str) -> _State:
        state = self._states.setdefault(registry, _State())
        while len(self._states) > _REMEMBERED:
            self._states.popitem(last=False)
        return state

    async def probe(self) -> None:
        """Raises `UnavailableError` where registries are known and none of them takes a connection, or where
        nothing may pass."""
        known = dict.fromkeys((*self._entries, *self._states))
        if not self._section.enabled:
            raise UnavailableError("this node does not use its uplink (uplink.enabled = false)")
        self._meter.allowance.check()
        for registry in list(known)[-PROBES:]:
            if await self._reachable(registry):
                return
        if known:
            raise UnavailableError(f"no registry can be reached: {', '.join(known)}")

    async def _reachable(self, registry: str) -> bool:
        entry = self._entries.get(registry)
        scheme = "http" if entry is not None and entry.plain_http else "https"
        url = httpx.URL(f"{scheme}://{DOCKER_HUB_HOST if registry == DOCKER_HUB else registry}")
        port = url.port or (80 if scheme == "http" else 443)
        window = self._meter.budget.first_window
        try:
            with trio.fail_after(min(self._section.connect_timeout, PROBE_TIMEOUT)):
                stream = await connect(url.host, port, window)
        except (OSError, trio.TooSlowError):
            return False
        PURPOSE.set(Purpose(kind="probe"))
        self._meter.open(stream, window).close()
        await stream.aclose()
        return True

    async def get(self, ask: Ask, *, bulk: bool = False) -> Answer:
        """The answer with status 200 (where a Range was asked, also 206 or 416; with If-None-Match, 304), to
        be closed by the caller.

        `bulk`: a blob's bytes. Raises `NotFoundError`, `DeniedError`, `UnavailableError` (held off, see
        `retry_after`), `UplinkShutError`, and `WireError` for what another try may mend; the
        caller tells `failed` of that."""
        if not self._section.enabled:
            raise UnavailableError("this node does not use its uplink (uplink.enabled = false)")
        self._meter.allowance.check()
        PURPOSE.set(Purpose(f"{ask.registry}/{ask.repository}", ask.kind))
        held = self.state(ask.registry).held_until - trio.current_time()
        if held > 0:
            raise UnavailableError(
                f"registry {ask.registry} asked to be left alone for {held:.0f} s more", held
            )
        try:
            return await self._judge(ask, await self._logged_in(ask, bulk))
        except DeniedError as fault:
            self.failed(ask.registry, str(fault))
            raise

    def failed(self, registry: str, reason: str) -> None:
        """Note why the last exchange with `registry` came to nothing."""
        state = self.state(registry)
        if state.error != reason:
            log.warning("upstream failed", registry=registry, reason=reason)
        if state.error is None:
            state.failing_since = trio.current_time()
        state.error = reason
        self._states.move_to_end(registry)

    async def _logged_in(self, ask: Ask, bulk: bool) -> Answer:
        origin = self._origin(ask.registry)
        header = await self._auth.header(ask.registry, ask.repository)
        answer = await self._follow(ask, origin, header, bulk)
        if answer.status == 401 and _same_origin(answer.url, origin):
            asked = answer.headers.get_list("www-authenticate")
            await _drain(answer)
            header = await self._auth.renew(ask.registry, ask.repository, asked, header)
            answer = await self._follow(ask, origin, header, bulk)
            if answer.status == 401 and _same_origin(answer.url, origin):
                await _drain(answer)
                raise self._auth.denied(ask.registry, ask.repository)
        return answer

    def _origin(self, registry: str) -> httpx.URL:
        host = parse_registry_untrusted(registry)
        entry = self._entries.get(host)
        scheme = "http" if entry is not None and entry.plain_http else "https"
        return httpx.URL(f"{scheme}://{DOCKER_HUB_HOST if host == DOCKER_HUB else host}/")

    async def _follow(self, ask: Ask, origin: httpx.URL, authorization: str | None, bulk: bool) -> Answer:
        url = origin.join(f"/v2/{ask.repository}/{ask.path}")
        for _ in range(REDIRECTS + 1):
            headers = {"User-Agent": "meshsat", **ask.headers}
            if authorization is not None and _same_origin(url, origin):
                headers["Authorization"] = authorization
            answer = await self._send(ask.registry, ask.kind, ask.method, url, headers, None, bulk=bulk)
            if answer.status not in _REDIRECT:
                return answer
            location = answer.headers.get("location", "")
            await _drain(answer)
            try:
                target = answers.redirect_target_untrusted(url, location)
            except InvalidInputError as fault:
                raise WireError(f"{origin_of(url)} answered {ask}: {fault}", permanent=True) from None
            if target.scheme == "http" and (url.scheme == "https" or origin.scheme == "https"):
                raise DeniedError(
                    f"{origin_of(url)} redirects {ask} to {origin_of(target)}, which is not https; refused"
                )
            url = target
        raise WireError(
            f"registry {ask.registry} redirects {ask} more than {REDIRECTS} times", permanent=True
        )

    async def _send(
        self,
        registry: str,
        kind: str,
        method: str,
        url: httpx.URL,
        headers: dict[str, str],
        content: bytes | None,
        *,
        bulk: bool = False,
    ) -> Answer:
        line = self._line(registry, url, bulk)
        timeouts = (self._section.connect_timeout, self._section.stall_timeout)
        try:
            answer = await line.send(method, url, headers, timeouts, content)
        except WireError as fault:
            self._metrics.wan_requests.labels(kind, "failed").inc()
            self._note(up=False)
            raise WireError(
                f"registry {registry}: {fault}", permanent=fault.permanent, retry_after=fault.retry_after
            ) from None
        self._metrics.wan_requests.labels(kind, str(answer.status)).inc()
        self._note(up=True)
        return answer

    def _note(self, *, up: bool) -> None:
        if self.up is not up:
            log.info("uplink answers" if up else "uplink does not answer")
        self.up = up
        self._metrics.uplink_up.set(up)

    def _line(self, registry: str, url: httpx.URL, bulk: bool) -> Line:
        """A registry's own CA is trusted for it alone; for where it sends us, in addition to the system's."""
        trust: _Trust | None = None
        if url.scheme == "https":
            theirs = self._entries.get(url.netloc.decode().lower())
            entry = theirs or self._entries.get(registry)
            ca_file = entry.ca_file if entry is not None else None
            own = theirs is not None or _same_origin(url, self._origin(registry))
            trust = (ca_file, ca_file is None or not own)
            if trust not in self._tls:
                self._tls[trust] = _tls(*trust)
        line = self._lines.get((trust, bulk))
        if line is None:
            tls = self._tls[trust] if trust is not None else None
            size = self._section.connections if bulk else ASK_CONNECTIONS
            line = self._lines[trust, bulk] = Line(self._meter, tls, size)
        return line

    async def _exchange_token(self, request: TokenRequest) -> tuple[int, bytes]:
        headers = {"User-Agent": "meshsat", "Accept": "application/json", **request.headers}
        purpose = PURPOSE.get()
        PURPOSE.set(Purpose(purpose.image, "token"))
        answer = await self._send(
            request.registry, "token", request.method, request.url, headers, request.content
        )
        async with answer:
            if answer.status in _BUSY:
                raise await self._busy(answer, request.registry, "a token")
            try:
                return answer.status, await answer.body_untrusted(ERROR_LIMIT)
            except InvalidInputError as fault:
                raise WireError(f"registry {request.registry}: {fault}", permanent=True) from None
            finally:
                PURPOSE.set(purpose)

    async def _judge(self, ask: Ask, answer: Answer) -> Answer:
        """Give back an answer that has content; raise what any other means."""
        asked_for = ("Range" in ask.headers and answer.status in (206, 416)) or (
            "If-None-Match" in ask.headers and answer.status == 304
        )
        if answer.status == 200 or asked_for:
            self.state(ask.registry).error = None
            return answer
        async with answer:
            if answer.status in _BUSY:
                raise await self._busy(answer, ask.registry, str(ask))
            text = await _error_text(answer)
            where = f"registry {ask.registry}"
            if not _same_origin(answer.url, self._origin(ask.registry)):
                # Not the registry's own word: a signed address that has run out, storage that lags behind.
                raise WireError(
                    f"{where} redirects to {origin_of(answer.url)}, which answered {answer.status}"
                )
            unsupported = ask.kind == "referrers" and answer.status in _UNSUPPORTED
            if answer.status in (404, 410) or unsupported:
                self.state(ask.registry).error = None
                raise NotFoundError(f"{where} has no {ask}{text}; check the name, or push it first")
            if answer.status == 403:
                raise DeniedError(f"{where} refuses {ask}{text}; check the rights of this node's login")
            raise WireError(f"{where} answered {ask} with status {answer.status}{text}", permanent=True)

    async def _busy(self, answer: Answer, registry: str, what: str) -> WireError:
        """The error for "not now"; a registry that says for how long is not asked again before."""
        retry_after = None
        try:
            if told := answer.headers.get("retry-after"):
                retry_after = answers.parse_retry_after_untrusted(told, self._wall_clock())
        except InvalidInputError:
            log.info("Retry-After not understood", registry=registry)
        if retry_after is not None and retry_after > self._section.backoff_limit:
            held = min(retry_after, HOLD_LIMIT)
            self.state(registry).held_until = trio.current_time() + held
        text = await _error_text(answer)
        wait = f"; it asks for {retry_after:.0f} s of patience" if retry_after is not None else ""
        return WireError(
            f"registry {registry} answered {what} with status {answer.status}{text}{wait}",
            retry_after=retry_after,
        )


async def _drain(answer: Answer) -> None:
    """Read a body that does not matter, so that its connection can be used again; close a long one."""
    async with answer:
        await _error_text(answer)


async def _error_text(answer: Answer) -> str:
    """` (CODE: message)` of an error body, or nothing."""
    try:
        text = answers.error_text_untrusted(await answer.body_untrusted(ERROR_LIMIT))
    except (InvalidInputError, WireError):
        text = ""
    return f" ({text})" if text else ""


def _same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    def origin(url: httpx.URL) -> tuple[str, str, int]:
        return url.scheme, url.host, url.port or {"http": 80, "https": 443}[url.scheme]

    return origin(one) == origin(other)


def _tls(ca_file: Path | None, system: bool) -> ssl.SSLContext:
    if ca_file is None:
        return ssl.create_default_context()
    try:
        context = ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as fault:
        raise ConfigError(
            f"uplink.registries: ca_file {ca_file} cannot be used ({fault.strerror or fault}); "
            "it must be a PEM file of certificates"
        ) from None
    if system:
        context.load_default_certs()
    return context
