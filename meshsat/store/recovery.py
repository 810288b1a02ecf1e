"""What is done at every start, before anything is read: disk and database are made to agree.

Blobs are the truth. A file in `blobs/` without a row was cut off between its name and its row, or the
database was lost: it is hashed, then adopted or removed. A row without its file is dropped, and so are images
that it leaves incomplete. What was on its way stays, if file and row are both there. Images of `index.json`
that the database does not know (it is new, or a power cut took its last words) are taken from there, unless
it knows something else under their names.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import structlog

from meshsat.chunking.cut import FIXED_1, Cut
from meshsat.errors import InvalidInputError, NotFoundError
from meshsat.oci.digest import Digest
from meshsat.oci.reference import SITE, Reference
from meshsat.store import disk
from meshsat.store.database import BrokenDatabaseError, Contents, Database, set_aside
from meshsat.store.images import Closure, belonging_to, closure, decode_index_untrusted, facts_of
from meshsat.store.layout import Layout, digest_of_blob_name
from meshsat.store.records import ImageRow, TagRecord, UploadRow

log = structlog.get_logger(__name__)


def open_database(layout: Layout, unix: Callable[[], float]) -> Database:
    """The database, every row readable. A broken one is set aside and begun anew. Raises `StorageError`."""
    try:
        if not layout.rotten_database.exists():
            return _readable_database(layout, unix)
        reason = "it proved broken while it was in use"
    except BrokenDatabaseError as fault:
        reason = str(fault)
    log.error(
        "database cannot be read: set aside, and rebuilt from the blobs on disk; pins are lost",
        reason=reason,
        kept_as=str(layout.broken_database),
    )
    with disk.storage_errors("set aside", layout.database):
        set_aside(layout.database, layout.broken_database)
        layout.rotten_database.unlink(missing_ok=True)
    return Database(layout.database, unix)


def _readable_database(layout: Layout, unix: Callable[[], float]) -> Database:
    database = Database(layout.database, unix)
    try:
        database.contents()
    except BaseException:
        database.close()
        raise
    return database


def reconcile(layout: Layout, database: Database) -> Contents:
    """Make disk and database agree. Takes long when blobs have to be hashed. Raises `StorageError`."""
    for path, _ in _files(layout.incoming_dir):
        disk.remove(path)
    contents = database.contents()
    known = set(contents.blobs)
    _reconcile_blobs(layout, database, contents.blobs)
    _reconcile_partials(layout, database, database.contents())
    _reconcile_uploads(layout, database, contents.uploads)
    database.settle_care()
    lost = known - database.contents().blobs.keys()
    if lost:
        _drop_incomplete_images(layout, database)
    _restore_images(layout, database)
    if database.is_new:
        database.finish_setup()
    contents = database.contents()
    contents.lost = lost
    return contents


def _files(directory: Path) -> Iterator[tuple[Path, int]]:
    """Regular files in a directory, with their sizes in bytes."""
    for path, status in disk.files(directory):
        yield path, status.st_size


def _reconcile_blobs(layout: Layout, database: Database, rows: dict[Digest, int]) -> None:
    missing = dict(rows)
    for directory in layout.blob_dirs:
        for path, size in _files(directory):
            digest = digest_of_blob_name(directory.name, path.name)
            if digest is None:
                log.warning("file among the blobs that is not named by a digest: left alone", path=str(path))
            elif rows.get(digest) == size or _adopt(database, digest, path, size):
                missing.pop(digest, None)
    for digest in missing:
        log.warning("blob is gone from the disk: it will be fetched again when wanted", digest=str(digest))
        database.drop_blob(digest)


def _adopt(database: Database, digest: Digest, path: Path, size: int) -> bool:
    """False when the file was not what its name says."""
    recipe = _recipe_of_file(path, digest, size)
    if recipe is None:
        log.warning("file among the blobs has not the digest that it is named by: removed", path=str(path))
        disk.remove(path)
        return False
    log.info("blob on disk taken into the database", digest=str(digest), size=size)
    database.add_blob(digest, size, recipe)
    return True


def _recipe_of_file(path: Path, digest: Digest, size: int) -> bytes | None:
    """The chunk digests of a file, one after the other; None when its own digest is not `digest`."""
    cut, whole, chunks = Cut(FIXED_1, size), digest.hasher(), []
    for index in range(cut.count):
        data = disk.read_span(path, *cut.span(index))
        whole.update(data)
        chunks.append(hashlib.sha256(data).digest())
    return b"".join(chunks) if whole.hexdigest() == digest.hex else None


def _reconcile_partials(layout: Layout, database: Database, contents: Contents) -> None:
    files = dict(_files(layout.partial_dir))
    for digest, row in contents.partials.items():
        path = layout.partial(digest)
        if digest not in contents.blobs and files.get(path) == row.size:
            del files[path]
        else:
            database.drop_partial(row.id)
    for path in files:
        log.info("file of a blob on its way that nothing is known about: removed", path=str(path))
        disk.remove(path)


def _reconcile_uploads(layout: Layout, database: Database, rows: Mapping[str, UploadRow]) -> None:
    files = {path.name: path for path, _ in _files(layout.uploads_dir)}
    for upload_id in rows.keys() - files.keys():
        database.drop_upload(upload_id)
    for name in files.keys() - rows.keys():
        disk.remove(files[name])


def _reader(layout: Layout, blobs: Mapping[Digest, int]) -> Callable[[Digest], bytes]:
    return lambda digest: disk.read_span(layout.blob(digest), 0, blobs[digest])


def _drop_incomplete_images(layout: Layout, database: Database) -> None:
    contents = database.contents()
    for name, image in contents.images.items():
        try:
            closure(image.descriptor.digest, contents.blobs, _reader(layout, contents.blobs))
        except (NotFoundError, InvalidInputError) as fault:
            log.warning("image is no longer whole", image=name, reason=str(fault))
            database.drop_image(name)


def _restore_images(layout: Layout, database: Database) -> None:
    contents = database.contents()
    try:
        with disk.storage_errors("read", layout.index):
            raw = layout.index.read_bytes() if layout.index.exists() else b'{"manifests":[]}'
        named = decode_index_untrusted(raw)
    except InvalidInputError as fault:
        log.warning("index.json cannot be read: no image restored", reason=str(fault))
        return
    written_at = layout.index.stat().st_mtime if named else 0.0
    for reference, descriptor in named:
        if not _is_news(contents, reference, descriptor.digest):
            continue
        try:
            whole = closure(descriptor.digest, contents.blobs, _reader(layout, contents.blobs))
        except (NotFoundError, InvalidInputError) as fault:
            log.warning(
                "image of index.json is not whole: not restored", image=str(reference), reason=str(fault)
            )
            continue
        _restore_image(database, reference, whole, written_at, contents.tags)
        log.info("image restored from index.json", image=str(reference))


def _is_news(contents: Contents, reference: Reference, digest: Digest) -> bool:
    """Whether the database knows nothing of it, and nothing else under its name."""
    registry, repository, tag = reference.registry, reference.repository, reference.tag
    known = contents.tags.get((registry, repository, tag or str(digest)))
    if known is not None and (known.is_gone or known.descriptor.digest != digest):
        return False
    end = f":{tag}" if tag is not None else f"@{digest}"
    return f"{registry}/{repository}{end}" not in contents.images


def _restore_image(
    database: Database,
    reference: Reference,
    whole: Closure,
    written_at: float,
    known: Collection[tuple[str, str, str]],
) -> None:
    """`known`: the tags of which the database knows something."""
    root = whole.root.descriptor
    registry, repository, tag = reference.registry, reference.repository, reference.tag
    database.put_image(ImageRow(registry, repository, tag, root, whole.size, written_at))
    if tag is not None and (registry, repository, tag) not in known:
        # When it was resolved is lost, so that any news is believed rather than this.
        database.put_tag(TagRecord(registry, repository, tag, root, resolved_at=0.0, author=""))
    for manifest in whole.manifests:
        database.put_facts(facts_of(manifest, registry, repository))
        if registry == SITE:
            database.add_holdings(repository, belonging_to(manifest))
            name = str(manifest.digest)  # each has a record of its own
            if (registry, repository, name) not in known:
                database.put_tag(TagRecord(registry, repository, name, manifest.descriptor, 0.0, author=""))
