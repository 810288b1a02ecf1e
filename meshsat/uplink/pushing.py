"""Push an artifact of a few small blobs to an upstream registry: what an operator's verb does, never a node.

Laws: as the uplink's: plain HTTP only with a registry that is configured so; the Authorization header goes to
the registry's own origin only; the manifest comes last. One try: whoever asked for it sees what went wrong.
"""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx
import trio

from meshsat.config import UplinkSection
from meshsat.errors import ConfigError, InvalidInputError, MeshsatError, UnavailableError
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest
from meshsat.oci.reference import DOCKER_HUB, Reference
from meshsat.uplink.answers import error_text_untrusted, redirect_target_untrusted
from meshsat.uplink.auth import Authenticator, TokenRequest
from meshsat.uplink.credentials import Credentials
from meshsat.uplink.network import origin_of
from meshsat.uplink.upstreams import DOCKER_HUB_HOST
from meshsat.vault.vault import Vault

ANSWER_LIMIT = 64 * 1024
"""Bytes of an answer that are read."""
TIMEOUT = 60.0
"""Seconds without a byte."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: httpx.Headers
    body: bytes = field(repr=False)


async def push(
    section: UplinkSection,
    reference: Reference,
    manifest: Manifest,
    blobs: Mapping[Digest, bytes],
    *,
    vault: Vault | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Under the tag of `reference`. Raises a `MeshsatError`."""
    entry = next((one for one in section.registries if one.host.lower() == reference.registry), None)
    plain = entry is not None and entry.plain_http
    context = ssl.create_default_context()
    if entry is not None and entry.ca_file is not None:
        try:
            context = await trio.to_thread.run_sync(_trusting, str(entry.ca_file))
        except (OSError, ssl.SSLError) as fault:
            raise ConfigError(f"uplink.registries {entry.host}: ca_file can't be used: {fault}") from None
    host = DOCKER_HUB_HOST if reference.registry == DOCKER_HUB else reference.registry
    timeout = httpx.Timeout(TIMEOUT, connect=section.connect_timeout)
    async with httpx.AsyncClient(verify=context, timeout=timeout) as http:
        origin = httpx.URL(f"{'http' if plain else 'https'}://{host}")
        credentials = Credentials(section, os.environ if environ is None else environ, vault)
        await _Push(http, origin, reference, credentials, plain=plain).run(manifest, blobs)


class _Push:
    def __init__(
        self,
        http: httpx.AsyncClient,
        origin: httpx.URL,
        reference: Reference,
        credentials: Credentials,
        *,
        plain: bool,
    ) -> None:
        self._http = http
        self._origin = origin
        self._reference = reference
        allowed = frozenset({reference.registry}) if plain else frozenset()
        self._auth = Authenticator(credentials, self._exchange, allowed, "pull,push")

    async def run(self, manifest: Manifest, blobs: Mapping[Digest, bytes]) -> None:
        repository = self._origin.join(f"/v2/{self._reference.repository}/")
        for digest, data in blobs.items():
            held = await self._ask("HEAD", repository.join(f"blobs/{digest}"), {200, 404})
            if held.status == 200:
                continue
            begun = await self._ask("POST", repository.join("blobs/uploads/"), {202})
            try:
                place = redirect_target_untrusted(repository, begun.headers.get("location", ""))
            except InvalidInputError as fault:
                raise MeshsatError(
                    f"registry {self._reference.registry} takes uploads at no place: {fault}"
                ) from None
            if place.scheme == "http" and self._origin.scheme == "https":
                raise MeshsatError(f"registry {self._reference.registry} takes uploads without TLS only")
            kind = {"Content-Type": "application/octet-stream"}
            await self._ask("PUT", place.copy_add_param("digest", str(digest)), {201}, data, kind)
        kind = {"Content-Type": manifest.media_type}
        tagged = repository.join(f"manifests/{self._reference.tag}")
        await self._ask("PUT", tagged, {201}, manifest.raw, kind)

    async def _ask(
        self,
        method: str,
        url: httpx.URL,
        expected: set[int],
        data: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> _Answer:
        registry, repository = self._reference.registry, self._reference.repository
        ours = origin_of(url) == origin_of(self._origin)
        header = await self._auth.header(registry, repository) if ours else None
        answer = await self._send(method, url, data, {**(headers or {}), **_authorized(header)})
        if answer.status == 401 and ours:
            asked = answer.headers.get_list("www-authenticate")
            header = await self._auth.renew(registry, repository, asked, header)
            answer = await self._send(method, url, data, {**(headers or {}), **_authorized(header)})
        if answer.status in expected:
            return answer
        if answer.status in (401, 403):
            raise self._auth.denied(registry, repository)
        said = error_text_untrusted(answer.body)
        raise MeshsatError(
            f"registry {registry} does not take it: {method} {url.path} was answered {answer.status}"
            + (f" ({said})" if said else "")
        )

    async def _send(self, method: str, url: httpx.URL, data: bytes, headers: Mapping[str, str]) -> _Answer:
        try:
            async with self._http.stream(method, url, content=data or None, headers=headers) as response:
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > ANSWER_LIMIT:
                        break
                return _Answer(response.status_code, response.headers, bytes(body[:ANSWER_LIMIT]))
        except httpx.TransportError as fault:
            reason = str(fault) or type(fault).__name__
            raise UnavailableError(
                f"registry {self._reference.registry} can't be reached: {reason}"
            ) from None

    async def _exchange(self, request: TokenRequest) -> tuple[int, bytes]:
        answer = await self._send(request.method, request.url, request.content or b"", request.headers)
        return answer.status, answer.body


def _authorized(header: str | None) -> dict[str, str]:
    return {} if header is None else {"Authorization": header}


def _trusting(ca_file: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)
