"""The uplink against Debian's docker-registry: TLS with a private CA, htpasswd, signed tokens, and a crash."""

import base64
import hashlib
import json
import re
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import bcrypt
import httpx
import pytest
import trio
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from meshsat.config import UplinkSection, UpstreamRegistry
from meshsat.errors import DeniedError, NotFoundError, UnavailableError
from meshsat.metrics import Metrics
from meshsat.oci.digest import Digest
from meshsat.uplink.client import Uplink
from tests.certificates import PrivateCA
from tests.images import Image, build_image, random_bytes, tar_layer
from tests.tools import require_tool

pytestmark = pytest.mark.clients

NAME = "library/pos"
IMAGE = build_image([tar_layer({"app": random_bytes(300_000)})], ["linux/amd64", "linux/arm64"])
BIG = random_bytes(12_000_000, seed=5)
LOGIN = ("bob", "hunter2")


@contextmanager
def docker_registry(
    directory: Path, http: str = "", auth: str = "", port: int = 0
) -> Iterator[tuple[str, Any]]:
    """A registry on loopback with these lines of configuration added; its address and its process."""
    require_tool("docker-registry")
    config = directory / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {directory}/data\n"
        f"http:\n  addr: 127.0.0.1:{port}\n{http}{auth}"
    )
    log = directory / f"registry-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(["docker-registry", "serve", config], stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 20
        while not (told := re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield told[1], process
    finally:
        process.kill()
        process.wait()


def push(base: str, image: Image, client: httpx.Client, blobs: tuple[bytes, ...] = ()) -> None:
    for data in (*image.blobs.values(), *blobs):
        begun = client.post(f"{base}/v2/{NAME}/blobs/uploads/").raise_for_status()
        place = (
            httpx.URL(base)
            .join(begun.headers["Location"])
            .copy_merge_params({"digest": str(Digest.of(data))})
        )
        client.put(place, content=data).raise_for_status()
    for digest, raw in image.manifests.items():
        kind = {"Content-Type": image.media_types[digest]}
        client.put(f"{base}/v2/{NAME}/manifests/{digest}", content=raw, headers=kind).raise_for_status()
    kind = {"Content-Type": image.media_type}
    client.put(f"{base}/v2/{NAME}/manifests/42", content=image.raw, headers=kind).raise_for_status()


@asynccontextmanager
async def uplink(
    entry: UpstreamRegistry, metrics: Metrics | None = None, **settings: Any
) -> AsyncIterator[Uplink]:
    async with Uplink(
        UplinkSection(registries=(entry,), **settings), metrics or Metrics(), environ={}
    ) as opened:
        yield opened


async def check(opened: Uplink, registry: str) -> None:
    """Everything of the image comes as it was pushed."""
    index = await opened.manifest(registry, NAME, "42")
    assert index.raw == IMAGE.raw
    assert await opened.manifest(registry, NAME, "42", index) is index, "not modified"
    for child in index.manifests:
        manifest = await opened.manifest(registry, NAME, str(child.digest))
        for blob in manifest.blobs:
            assert await opened.blob_size(registry, NAME, blob.digest) == blob.size
            for start, stop in ((0, blob.size), (blob.size // 3, blob.size // 2)):
                async with opened.blob(registry, NAME, blob.digest, start, stop, blob.size) as stream:
                    read = b"".join([piece async for piece in stream])
                assert read == IMAGE.blobs[str(blob.digest)][start:stop]
    with pytest.raises(NotFoundError, match="MANIFEST_UNKNOWN"):
        await opened.manifest(registry, NAME, "43")


async def test_tls_with_a_private_ca_and_htpasswd(tmp_path: Path) -> None:
    ca = PrivateCA(tmp_path)
    cert, key = ca.issue("127.0.0.1")
    (tmp_path / "htpasswd").write_bytes(b"bob:" + bcrypt.hashpw(b"hunter2", bcrypt.gensalt(4)) + b"\n")
    tls = f"  tls:\n    certificate: {cert}\n    key: {key}\n"
    auth = f"auth:\n  htpasswd:\n    realm: test\n    path: {tmp_path}/htpasswd\n"
    (tmp_path / "password").write_text("hunter2\n")
    with docker_registry(tmp_path, tls, auth) as (address, _):
        with httpx.Client(verify=PrivateCA.trusting(ca.ca_file), auth=LOGIN) as client:
            push(f"https://{address}", IMAGE, client)
        login: dict[str, Any] = {"username": "bob", "password_file": tmp_path / "password"}
        async with uplink(UpstreamRegistry(host=address, ca_file=ca.ca_file, **login)) as opened:
            await check(opened, address)
            assert (opened.up, opened.last_error) == (True, None)
        async with uplink(UpstreamRegistry(host=address, ca_file=ca.ca_file)) as opened:
            with pytest.raises(DeniedError, match="anonymous client"):
                await opened.manifest(address, NAME, "42")
        (tmp_path / "password").write_text("wrong")
        async with uplink(UpstreamRegistry(host=address, ca_file=ca.ca_file, **login)) as opened:
            with pytest.raises(DeniedError, match="does not let bob"):
                await opened.manifest(address, NAME, "42")
        async with uplink(UpstreamRegistry(host=address)) as opened:
            with pytest.raises(UnavailableError, match=r"not trusted .* set ca_file"):
                await opened.manifest(address, NAME, "42")
        async with uplink(UpstreamRegistry(host=address, plain_http=True)) as opened:
            with pytest.raises(UnavailableError, match="status 400"):
                await opened.manifest(address, NAME, "42")


class TokenService:
    """Signs what docker-registry believes (distribution's docs/spec/auth/jwt.md): ES256 with its certificate."""

    def __init__(self, directory: Path) -> None:
        cert, key = PrivateCA(directory, "token service").issue("tokens")
        self.cert_file = cert
        loaded = serialization.load_pem_private_key(key.read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        self.key = loaded
        self.der = base64.b64encode(
            base64.b64decode("".join(cert.read_text().splitlines()[1:-1])),
        ).decode()
        self.asked: list[dict[str, list[str]]] = []

    def token(self, scope: str) -> str:
        kind, name, actions = scope.split(":")
        now = int(time.time())
        claims: dict[str, Any] = {"iss": "tests", "aud": "registry", "sub": "bob", "jti": "1"}
        claims |= {"nbf": now - 10, "iat": now, "exp": now + 300}
        claims |= {"access": [{"type": kind, "name": name, "actions": actions.split(",")}]}
        parts: list[dict[str, Any]] = [{"typ": "JWT", "alg": "ES256", "x5c": [self.der]}, claims]
        signed = ".".join(self.encode(json.dumps(part).encode()) for part in parts)
        r, s = utils.decode_dss_signature(self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{self.encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    @staticmethod
    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    @contextmanager
    def running(self) -> Iterator[str]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = parse_qs(urlsplit(self.path).query)
                service.asked.append(asked)
                body = json.dumps({"token": service.token(asked["scope"][0]), "expires_in": 300}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}/token"
            finally:
                server.shutdown()
                thread.join()


async def test_bearer_tokens(tmp_path: Path) -> None:
    service = TokenService(tmp_path)
    with service.running() as realm:
        auth = f"auth:\n  token:\n    realm: {realm}\n    service: registry\n    issuer: tests\n"
        auth += f"    rootcertbundle: {service.cert_file}\n"
        with docker_registry(tmp_path, auth=auth) as (address, _):
            token = service.token(f"repository:{NAME}:pull,push")
            with httpx.Client(headers={"Authorization": f"Bearer {token}"}) as client:
                push(f"http://{address}", IMAGE, client)
            async with uplink(UpstreamRegistry(host=address, plain_http=True)) as opened:
                await check(opened, address)
    assert service.asked == [{"service": ["registry"], "scope": [f"repository:{NAME}:pull"]}]


async def test_registry_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    metrics = Metrics()
    digest = Digest.of(BIG)
    with docker_registry(tmp_path) as (address, process), ExitStack() as stack:
        with httpx.Client() as client:
            push(f"http://{address}", IMAGE, client, blobs=(BIG,))
        entry = UpstreamRegistry(host=address, plain_http=True)
        read, hashed = 0, hashlib.sha256()
        async with (
            uplink(entry, metrics, rate=8_000_000, attempts=50, backoff=0.05, backoff_limit=0.2) as opened,
            opened.blob(address, NAME, digest, 0, len(BIG), len(BIG)) as stream,
        ):
            async for piece in stream:
                read += len(piece)
                hashed.update(piece)
                if read > len(BIG) // 3 and process.poll() is None:
                    process.kill()
                    process.wait()
                    again = docker_registry(tmp_path, port=int(address.rpartition(":")[2]))
                    await trio.to_thread.run_sync(stack.enter_context, again)
    assert read == len(BIG)
    assert hashed.hexdigest() == digest.hex
    came = metrics.registry.get_sample_value("meshsat_wan_received_bytes_total")
    assert came is not None
    assert came <= 1.02 * len(BIG)


async def test_rate_comes_out_within_two_percent(tmp_path: Path) -> None:
    rate = 2_500_000  # 20 Mbit/s
    with docker_registry(tmp_path) as (address, _):
        with httpx.Client() as client:
            push(f"http://{address}", IMAGE, client, blobs=(BIG,))
        async with uplink(UpstreamRegistry(host=address, plain_http=True), rate=rate) as opened:
            reached: list[int] = []
            half = len(BIG) // 2

            async def fetch(start: int, stop: int) -> None:
                async with opened.blob(address, NAME, Digest.of(BIG), start, stop, len(BIG)) as stream:
                    reached.append(sum([len(piece) async for piece in stream]))

            began = time.monotonic()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fetch, 0, half)
                nursery.start_soon(fetch, half, len(BIG))
            seconds = time.monotonic() - began
    assert sum(reached) == len(BIG)
    assert len(BIG) / rate * 0.98 <= seconds
    assert seconds <= len(BIG) / rate * 1.05  # other work on this machine may delay us, never speed us up
