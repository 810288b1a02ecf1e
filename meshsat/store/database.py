"""The SQLite file: all SQL of the store, and nothing else.

Called from worker threads, one statement or transaction at a time. WAL with synchronous=NORMAL: what is
committed survives `kill -9`; the last commits before a power cut may be missing, which recovery expects. We
are the only process (`lock.py`), so SQLite's own lock is taken for good and no shared memory is needed.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshsat.errors import InvalidInputError, StorageError, StorageFullError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.digest import Digest
from meshsat.oci.fields import parse_object_untrusted
from meshsat.store.records import BlobFacts, ImageRow, TagRecord, UploadRow

SCHEMA_VERSION = 3

_SCHEMA = """
CREATE TABLE IF NOT EXISTS blob (
    digest TEXT PRIMARY KEY, size INTEGER NOT NULL, recipe BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS partial (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: a late chunk cannot end up in a later partial
    digest TEXT NOT NULL UNIQUE, size INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS chunk (
    partial INTEGER NOT NULL REFERENCES partial (id) ON DELETE CASCADE,
    number INTEGER NOT NULL, sha256 BLOB NOT NULL, PRIMARY KEY (partial, number)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tag (
    registry TEXT NOT NULL, repository TEXT NOT NULL, tag TEXT NOT NULL,
    media_type TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL,
    resolved_at REAL NOT NULL, author TEXT NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (registry, repository, tag)) STRICT;
CREATE TABLE IF NOT EXISTS fact (
    digest TEXT PRIMARY KEY, size INTEGER NOT NULL, media_type TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS source (
    digest TEXT NOT NULL, registry TEXT NOT NULL, repository TEXT NOT NULL,
    PRIMARY KEY (digest, registry, repository)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS image (
    name TEXT PRIMARY KEY, registry TEXT NOT NULL, repository TEXT NOT NULL, tag TEXT,
    media_type TEXT NOT NULL, digest TEXT NOT NULL, manifest_size INTEGER NOT NULL,
    size INTEGER NOT NULL, published_at REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS pin (
    digest TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (digest, reason)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS holding (  -- what belongs to a repository of site content
    repository TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (repository, digest)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dropped (  -- what was deleted there, though manifests refer to it
    repository TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (repository, digest)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS referrer (
    registry TEXT NOT NULL, repository TEXT NOT NULL, subject TEXT NOT NULL, digest TEXT NOT NULL,
    descriptor TEXT NOT NULL, PRIMARY KEY (registry, repository, subject, digest)) STRICT;
CREATE TABLE IF NOT EXISTS upload (
    id TEXT PRIMARY KEY, repository TEXT NOT NULL, algorithm TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS care (  -- Unix seconds at which a blob was last claimed, and found right (ages.py)
    digest TEXT PRIMARY KEY, claimed_at REAL NOT NULL, checked_at REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS used (  -- when an image was last pulled from here, by its manifest
    digest TEXT PRIMARY KEY, at REAL NOT NULL) STRICT;
"""

_ROTTEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
"""Primary result codes that say, of a file that was good when it was opened, that it no longer is."""

# Primary result codes (sqlite.org/rescode.html) that say "this file is no good", not "the disk is".
_BROKEN = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_SCHEMA,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_FORMAT,
}


_CARE = "INSERT OR REPLACE INTO care VALUES (?, ?, ?)"


class BrokenDatabaseError(StorageError):
    """The file is not a database of ours, or no longer one."""


@dataclass(frozen=True, slots=True)
class PartialRow:
    id: int
    size: int
    """Bytes of the whole blob."""


@dataclass(slots=True)
class Contents:
    """Everything but recipes and chunks, as values. The store's mirror in memory begins as this."""

    blobs: dict[Digest, int] = field(default_factory=dict)
    partials: dict[Digest, PartialRow] = field(default_factory=dict)
    tags: dict[tuple[str, str, str], TagRecord] = field(default_factory=dict)
    facts: dict[Digest, BlobFacts] = field(default_factory=dict)
    images: dict[str, ImageRow] = field(default_factory=dict)
    """By name."""
    pins: dict[Digest, frozenset[str]] = field(default_factory=dict)
    holdings: dict[str, set[Digest]] = field(default_factory=dict)
    """By repository of site content."""
    dropped: set[tuple[str, Digest]] = field(default_factory=set)
    """Repository of site content, and what was deleted there."""
    referrers: dict[tuple[str, str, Digest], dict[Digest, Descriptor]] = field(default_factory=dict)
    """By registry, repository and subject."""
    uploads: dict[str, UploadRow] = field(default_factory=dict)
    """By id."""
    claimed: dict[Digest, float] = field(default_factory=dict)
    """Unix seconds at which a blob was published, or something else wanted it kept (ages.py)."""
    checked: dict[Digest, float] = field(default_factory=dict)
    """Unix seconds at which the bytes of a blob were last found right."""
    used: dict[Digest, float] = field(default_factory=dict)
    """By manifest: when an image was last pulled from here."""
    lost: set[Digest] = field(default_factory=set)
    """Blobs that were here when the store was last open, and are not."""
    changes: int = 0
    """Grows whenever something begins to be a reason to keep something."""


class Database:
    """Every method blocks, may be called from any thread, and raises `StorageError`."""

    def __init__(self, path: Path, unix: Callable[[], float] = time.time) -> None:
        """Opens or makes the file. `unix` gives Unix time. Raises `BrokenDatabaseError` when it can't be made
        sense of."""
        self._path = path
        self._unix = unix
        self._lock = threading.Lock()
        self.is_new = False
        """Nothing is in it yet that an earlier one may have held."""
        self.on_rotten: Callable[[str], None] = lambda _reason: None
        """Called, from whatever thread found it out, when the file proves no good while it is in use."""
        with self._errors():
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        with self._errors():
            for pragma in (
                "locking_mode = EXCLUSIVE",
                "journal_mode = WAL",
                "synchronous = NORMAL",
                "journal_size_limit = 4194304",
                "foreign_keys = ON",
            ):
                self._connection.execute(f"PRAGMA {pragma}")
            (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise BrokenDatabaseError(f"{self._path}: {verdict}")
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise StorageError(f"{self._path} was written by a newer meshsat: install that one again")
            if version < SCHEMA_VERSION:
                self.is_new = version == 0
                self._connection.executescript(f"BEGIN;{_SCHEMA}COMMIT;")
                if version > 0:  # every change so far was a new table
                    self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        with self._lock, self._errors():
            self._connection.close()

    def finish_setup(self) -> None:
        """What a new database must hold is in it: from now on it is not new."""
        self._do(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self.is_new = False

    # Blobs

    def add_blob(self, digest: Digest, size: int, recipe: bytes) -> None:
        self.add_blobs([(digest, size, recipe)])

    def add_blobs(self, rows: Sequence[tuple[Digest, int, bytes]]) -> None:
        """Of each: digest, size in bytes, recipe."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO blob VALUES (?, ?, ?)",
                [(str(digest), size, recipe) for digest, size, recipe in rows],
            )
            now = self._unix()
            connection.executemany(_CARE, [(str(digest), now, now) for digest, _, _ in rows])

    def drop_blob(self, digest: Digest) -> None:
        with self._transaction() as connection:
            for table in ("blob", "care", "used"):
                connection.execute(f"DELETE FROM {table} WHERE digest = ?", (str(digest),))  # noqa: S608

    def recipe(self, digest: Digest) -> bytes | None:
        """The chunk digests of a published blob, one after the other."""
        rows = self._do("SELECT recipe FROM blob WHERE digest = ?", str(digest))
        return rows[0][0] if rows else None

    # Partial blobs

    def add_partial(self, digest: Digest, size: int) -> PartialRow:
        rows = self._do("INSERT INTO partial (digest, size) VALUES (?, ?) RETURNING id", str(digest), size)
        return PartialRow(rows[0][0], size)

    def drop_partial(self, row_id: int) -> None:
        self._do("DELETE FROM partial WHERE id = ?", row_id)

    def chunks(self, row_id: int) -> dict[int, bytes]:
        return dict(self._do("SELECT number, sha256 FROM chunk WHERE partial = ? ORDER BY number", row_id))

    def add_chunk(self, row_id: int, number: int, sha256: bytes) -> None:
        self._do("INSERT OR REPLACE INTO chunk VALUES (?, ?, ?)", row_id, number, sha256)

    def drop_chunks(self, row_id: int, numbers: Iterable[int]) -> None:
        with self._transaction() as connection:
            connection.executemany(
                "DELETE FROM chunk WHERE partial = ? AND number = ?", [(row_id, number) for number in numbers]
            )

    def finish_partial(self, row_id: int, digest: Digest, size: int, recipe: bytes) -> None:
        """The partial blob became a published one."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO blob VALUES (?, ?, ?)", (str(digest), size, recipe))
            connection.execute(_CARE, (str(digest), self._unix(), self._unix()))
            connection.execute("DELETE FROM partial WHERE id = ?", (row_id,))

    # How blobs are

    def settle_care(self) -> None:
        """Exactly the blobs have a row: one that has none counts from now."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM care WHERE digest NOT IN (SELECT digest FROM blob)")
            connection.execute("DELETE FROM used WHERE digest NOT IN (SELECT digest FROM blob)")
            now = self._unix()
            connection.execute("INSERT OR IGNORE INTO care SELECT digest, ?, ? FROM blob", (now, now))

    def put_checked(self, digest: Digest, at: float) -> None:
        self._do("UPDATE care SET checked_at = ? WHERE digest = ?", at, str(digest))

    def put_claims(self, claims: Mapping[Digest, float], used: Mapping[Digest, float]) -> None:
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE care SET claimed_at = ? WHERE digest = ?",
                [(at, str(digest)) for digest, at in claims.items()],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO used VALUES (?, ?)",
                [(str(digest), at) for digest, at in used.items()],
            )

    # Tags, facts, images, pins

    def put_tag(self, record: TagRecord) -> None:
        target = record.descriptor
        self._do(
            "INSERT OR REPLACE INTO tag VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            record.registry,
            record.repository,
            record.tag,
            target.media_type,
            str(target.digest),
            target.size,
            record.resolved_at,
            record.author,
            record.sealed,
        )

    def drop_tag(self, registry: str, repository: str, tag: str) -> None:
        self._do(
            "DELETE FROM tag WHERE registry = ? AND repository = ? AND tag = ?", registry, repository, tag
        )

    def put_facts(self, facts: Iterable[BlobFacts]) -> None:
        with self._transaction() as connection:
            for fact in facts:
                text = str(fact.digest)
                connection.execute(
                    "INSERT OR REPLACE INTO fact VALUES (?, ?, ?)", (text, fact.size, fact.media_type)
                )
                connection.execute("DELETE FROM source WHERE digest = ?", (text,))
                connection.executemany(
                    "INSERT INTO source VALUES (?, ?, ?)",
                    [(text, *source) for source in fact.sources],
                )

    def put_image(self, image: ImageRow) -> None:
        target = image.descriptor
        self._do(
            "INSERT OR REPLACE INTO image VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            image.name,
            image.registry,
            image.repository,
            image.tag,
            target.media_type,
            str(target.digest),
            target.size,
            image.size,
            image.published_at,
        )

    def drop_image(self, name: str) -> None:
        self._do("DELETE FROM image WHERE name = ?", name)

    def add_pin(self, digest: Digest, reason: str) -> None:
        self._do("INSERT OR IGNORE INTO pin VALUES (?, ?)", str(digest), reason)

    def drop_pin(self, digest: Digest, reason: str) -> None:
        self._do("DELETE FROM pin WHERE digest = ? AND reason = ?", str(digest), reason)

    # Site content

    def add_holdings(self, repository: str, digests: Iterable[Digest]) -> None:
        rows = [(repository, str(digest)) for digest in digests]
        with self._transaction() as connection:
            connection.executemany("INSERT OR IGNORE INTO holding VALUES (?, ?)", rows)
            connection.executemany("DELETE FROM dropped WHERE repository = ? AND digest = ?", rows)

    def drop_holding(self, repository: str, digest: Digest) -> None:
        row = (repository, str(digest))
        with self._transaction() as connection:
            connection.execute("DELETE FROM holding WHERE repository = ? AND digest = ?", row)
            connection.execute("INSERT OR IGNORE INTO dropped VALUES (?, ?)", row)

    def release_holdings(self, repository: str, digests: Iterable[Digest]) -> None:
        """Nothing refers to them there any more."""
        with self._transaction() as connection:
            connection.executemany(
                "DELETE FROM holding WHERE repository = ? AND digest = ?",
                [(repository, str(digest)) for digest in digests],
            )

    def add_referrer(self, registry: str, repository: str, subject: Digest, found: Descriptor) -> None:
        document = json.dumps(found.as_json())
        self._do(
            "INSERT OR REPLACE INTO referrer VALUES (?, ?, ?, ?, ?)",
            registry,
            repository,
            str(subject),
            str(found.digest),
            document,
        )

    def drop_referrer(self, registry: str, repository: str, digest: Digest) -> None:
        self._do(
            "DELETE FROM referrer WHERE registry = ? AND repository = ? AND digest = ?",
            registry,
            repository,
            str(digest),
        )

    def add_upload(self, row: UploadRow) -> None:
        self._do("INSERT INTO upload VALUES (?, ?, ?)", row.id, row.repository, row.algorithm)

    def drop_upload(self, upload_id: str) -> None:
        self._do("DELETE FROM upload WHERE id = ?", upload_id)

    def contents(self) -> Contents:
        """Raises `BrokenDatabaseError` when a row makes no sense."""
        try:
            return Contents(
                blobs={_digest(text): size for text, size in self._do("SELECT digest, size FROM blob")},
                partials={
                    _digest(text): PartialRow(row_id, size)
                    for row_id, text, size in self._do("SELECT id, digest, size FROM partial")
                },
                tags={row[:3]: _tag(row) for row in self._do("SELECT * FROM tag")},
                facts=self._facts(),
                images={row[0]: _image(row) for row in self._do("SELECT * FROM image")},
                pins=self._pins(),
                holdings=self._holdings(),
                dropped={(row[0], _digest(row[1])) for row in self._do("SELECT * FROM dropped")},
                referrers=self._referrers(),
                uploads={row[0]: UploadRow(*row) for row in self._do("SELECT * FROM upload")},
                claimed={_digest(text): at for text, at in self._do("SELECT digest, claimed_at FROM care")},
                checked={_digest(text): at for text, at in self._do("SELECT digest, checked_at FROM care")},
                used={_digest(text): at for text, at in self._do("SELECT digest, at FROM used")},
            )
        except (InvalidInputError, ValueError) as fault:
            raise BrokenDatabaseError(f"{self._path}: {fault}") from None

    def _facts(self) -> dict[Digest, BlobFacts]:
        sources: dict[str, list[tuple[str, str]]] = {}
        for text, *source in self._do("SELECT digest, registry, repository FROM source"):
            sources.setdefault(text, []).append((source[0], source[1]))
        rows = self._do("SELECT digest, size, media_type FROM fact")
        return {
            (digest := _digest(text)): BlobFacts(digest, size, media_type, tuple(sources.get(text, ())))
            for text, size, media_type in rows
        }

    def _pins(self) -> dict[Digest, frozenset[str]]:
        pins: dict[Digest, frozenset[str]] = {}
        for text, reason in self._do("SELECT digest, reason FROM pin"):
            digest = _digest(text)
            pins[digest] = pins.get(digest, frozenset()) | {reason}
        return pins

    def _holdings(self) -> dict[str, set[Digest]]:
        found: dict[str, set[Digest]] = {}
        for repository, text in self._do("SELECT repository, digest FROM holding"):
            found.setdefault(repository, set()).add(_digest(text))
        return found

    def _referrers(self) -> dict[tuple[str, str, Digest], dict[Digest, Descriptor]]:
        found: dict[tuple[str, str, Digest], dict[Digest, Descriptor]] = {}
        for registry, repository, subject, _, document in self._do("SELECT * FROM referrer"):
            one = Descriptor.parse_untrusted(parse_object_untrusted(document.encode(), "a referrer"))
            found.setdefault((registry, repository, _digest(subject)), {})[one.digest] = one
        return found

    def _do(self, statement: str, *values: Any) -> list[Any]:
        with self._lock, self._errors():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk has rolled back already on its own.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as fault:
            code = getattr(fault, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            kind: type[StorageError] = BrokenDatabaseError if code in _BROKEN else StorageError
            if code == sqlite3.SQLITE_FULL:
                kind = StorageFullError
            hint = "; free some space on that disk" if kind is StorageFullError else ""
            if code in _ROTTEN:
                self.on_rotten(f"{self._path}: {fault}")
            raise kind(f"{self._path}: {fault}{hint}") from fault


def _digest(text: str) -> Digest:
    return Digest.parse_untrusted(text)


def _tag(row: tuple[Any, ...]) -> TagRecord:
    registry, repository, tag, media_type, digest, size, resolved_at, author, sealed = row
    target = Descriptor(media_type, _digest(digest), size)
    return TagRecord(registry, repository, tag, target, resolved_at, author, sealed)


def _image(row: tuple[Any, ...]) -> ImageRow:
    _, registry, repository, tag, media_type, digest, manifest_size, size, published_at = row
    descriptor = Descriptor(media_type, _digest(digest), manifest_size)
    return ImageRow(registry, repository, tag, descriptor, size, published_at)


def set_aside(path: Path, target: Path) -> None:
    """Move a broken database out of the way, with its log. The one set aside before is replaced."""
    for suffix in ("", "-wal", "-shm"):
        source, destination = path.with_name(path.name + suffix), target.with_name(target.name + suffix)
        destination.unlink(missing_ok=True)
        if source.exists():
            source.rename(destination)
