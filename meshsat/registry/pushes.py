"""What clients change: blobs and manifests that they push, and what they delete.

Laws: an upload that is out of order is refused and stays usable; what a broken connection had brought is
kept, and told to whoever asks; a manifest is published when all that it refers to is there.
"""

from meshsat.errors import TooLongError
from meshsat.http.asgi import Headers
from meshsat.oci.digest import SHA256, Digest
from meshsat.oci.manifest import parse_manifest_untrusted
from meshsat.registry.content import Intake, Upload
from meshsat.registry.errors import Code, RefusedError
from meshsat.registry.request import Request, in_namespace
from meshsat.registry.routes import BlobRoute, ManifestRoute, Route, Target, UploadRoute, UploadsRoute


class Pushes:
    """`manifest_limit`: bytes."""

    def __init__(self, intake: Intake, manifest_limit: int) -> None:
        self._intake = intake
        self._manifest_limit = manifest_limit

    async def serve(self, request: Request, route: Route, *, sparse: bool) -> Digest | None:
        """`sparse`: an index need not be whole. Gives the manifest that was pushed."""
        match route, request.method:
            case UploadsRoute(), _:
                await self._begin(request, route)
            case UploadRoute(), _:
                await self._upload(request, route)
            case ManifestRoute(), "PUT":
                return await self._put_manifest(request, route, sparse=sparse)
            case ManifestRoute(), _:
                unknown = RefusedError(404, Code.MANIFEST_UNKNOWN, f"no {route.reference} to delete here")
                if not await self._intake.delete_manifest(route.target.name, route.reference):
                    raise unknown
                await request.answer(202, in_namespace(route.target), b"")
            case BlobRoute(), _:
                unknown = RefusedError(404, Code.BLOB_UNKNOWN, f"no {route.digest} to delete here")
                if not await self._intake.delete_blob(route.target.name, route.digest):
                    raise unknown
                await request.answer(202, in_namespace(route.target), b"")
        return None

    # --- blobs ---

    async def _begin(self, request: Request, route: UploadsRoute) -> None:
        """Begin an upload; or take the blob of another repository, or the whole of it from this request."""
        name = route.target.name
        if route.mount is not None and await self._intake.mount(name, route.mount, route.source):
            await _created(request, route.target, route.mount)
            return
        part = request.part_untrusted()
        upload = await self._intake.begin_upload(name, route.algorithm)
        if route.digest is None:
            await request.answer(202, _state(route.target, upload), b"")
            return
        try:
            async with upload.turn():
                await _take(request, upload, part.start)
                await self._intake.finish_upload(name, upload, route.digest)
        except BaseException:  # nobody was told its id: nobody can go on with it
            await self._intake.cancel_upload(upload)
            raise
        await _created(request, route.target, route.digest)

    async def _upload(self, request: Request, route: UploadRoute) -> None:
        upload = self._intake.find_upload(route.target.name, route.id)
        if upload is None:
            raise RefusedError(404, Code.BLOB_UPLOAD_UNKNOWN, f"no upload {route.id[:64]} of this repository")
        match request.method:
            case "PATCH":
                part = request.part_untrusted()
                async with upload.turn():
                    _check_order(route.target, upload, part.start)
                    await _take(request, upload, None)
                await request.answer(202, _state(route.target, upload), b"")
            case "PUT":
                await self._finish(request, route, upload)
            case "DELETE":
                async with upload.turn():
                    await self._intake.cancel_upload(upload)
                await request.answer(204, in_namespace(route.target))
            case _:
                await request.answer(204, _state(route.target, upload))

    async def _finish(self, request: Request, route: UploadRoute, upload: Upload) -> None:
        if route.digest is None:
            raise RefusedError(400, Code.DIGEST_INVALID, "closing an upload needs ?digest=")
        part = request.part_untrusted()
        async with upload.turn():
            _check_order(route.target, upload, part.start)
            await _take(request, upload, None)
            await self._intake.finish_upload(route.target.name, upload, route.digest)
        await _created(request, route.target, route.digest)

    # --- manifests ---

    async def _put_manifest(self, request: Request, route: ManifestRoute, *, sparse: bool) -> Digest:
        raw = await request.read(self._manifest_limit)
        types = request.fields(b"content-type")
        reference = route.reference
        algorithm = reference.algorithm if isinstance(reference, Digest) else SHA256
        media_type = types[0].decode("latin-1") if types else None
        manifest = parse_manifest_untrusted(raw, media_type, algorithm=algorithm)
        if isinstance(reference, Digest) and manifest.digest != reference:
            raise RefusedError(
                400, Code.DIGEST_INVALID, f"the manifest has the digest {manifest.digest}, not {reference}"
            )
        tags = route.tags if isinstance(reference, Digest) else (reference, *route.tags)
        await self._intake.put_manifest(route.target.name, manifest, tags, sparse=sparse)
        headers = [
            (b"location", _location(route.target, f"manifests/{manifest.digest}")),
            (b"docker-content-digest", str(manifest.digest).encode()),
            *in_namespace(route.target),
        ]
        if manifest.subject is not None:
            headers.append((b"oci-subject", str(manifest.subject.digest).encode()))
        if route.tags:
            headers.append((b"oci-tag", ", ".join(route.tags).encode()))
        await request.answer(201, headers, b"")
        return manifest.digest


async def _take(request: Request, upload: Upload, start: int | None) -> None:
    if start:
        raise RefusedError(416, Code.BLOB_UPLOAD_INVALID, "an upload begins at byte 0")
    if (request.length or 0) > upload.room:
        raise TooLongError(f"the blob may have {upload.room} more bytes, the limit here")
    async for part in request.body():
        await upload.write(part)


def _check_order(target: Target, upload: Upload, start: int | None) -> None:
    if start is not None and start != upload.size:
        text = f"{upload.size} bytes came so far: the next part must begin there, not at {start}"
        raise RefusedError(416, Code.BLOB_UPLOAD_INVALID, text, _state(target, upload))


def _state(target: Target, upload: Upload) -> Headers:
    """Where an upload is reached, and how far it came (end-4, end-13)."""
    return [
        (b"location", _location(target, f"blobs/uploads/{upload.id}")),
        (b"range", b"0-%d" % max(0, upload.size - 1)),
        (b"docker-upload-uuid", upload.id.encode()),
        *in_namespace(target),
    ]


async def _created(request: Request, target: Target, digest: Digest) -> None:
    headers = [
        (b"location", _location(target, f"blobs/{digest}")),
        (b"docker-content-digest", str(digest).encode()),
        *in_namespace(target),
    ]
    await request.answer(201, headers, b"")


def _location(target: Target, rest: str) -> bytes:
    namespace = f"?ns={target.namespace}" if target.namespace else ""
    return f"/v2/{target.path}/{rest}{namespace}".encode("ascii")
