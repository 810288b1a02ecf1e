import sqlite3

import pytest

from meshsat.errors import StorageError
from meshsat.oci.digest import Digest
from meshsat.store.database import SCHEMA_VERSION, BrokenDatabaseError, Contents, Database, set_aside
from meshsat.store.layout import Layout
from meshsat.store.records import BlobFacts

DIGEST = Digest.of(b"x")


def test_new_until_it_is_told_otherwise(layout: Layout) -> None:
    for _ in range(2):
        database = Database(layout.database)
        assert database.is_new
        assert database.contents() == Contents()
        database.close()
    database = Database(layout.database)
    database.finish_setup()
    database.close()
    database = Database(layout.database)
    assert not database.is_new
    database.close()


def test_a_late_chunk_never_ends_up_in_a_later_partial(layout: Layout) -> None:
    database = Database(layout.database)
    first = database.add_partial(DIGEST, 5)
    database.drop_partial(first.id)
    second = database.add_partial(DIGEST, 5)
    assert second.id != first.id
    with pytest.raises(StorageError):
        database.add_chunk(first.id, 0, b"\0" * 32)
    assert database.chunks(second.id) == {}
    database.close()


def test_chunks_go_with_their_partial(layout: Layout) -> None:
    database = Database(layout.database)
    row = database.add_partial(DIGEST, 5)
    database.add_chunk(row.id, 7, b"\1" * 32)
    database.add_chunk(row.id, 2, b"\2" * 32)
    assert database.chunks(row.id) == {2: b"\2" * 32, 7: b"\1" * 32}
    database.drop_chunks(row.id, [7, 8])
    assert list(database.chunks(row.id)) == [2]
    database.finish_partial(row.id, DIGEST, 5, b"recipe")
    assert database.chunks(row.id) == {}
    assert database.recipe(DIGEST) == b"recipe"
    assert database.contents().blobs == {DIGEST: 5}
    database.drop_blob(DIGEST)
    assert database.recipe(DIGEST) is None
    database.close()


def test_what_is_done_is_on_the_disk_and_not_only_in_this_process(layout: Layout) -> None:
    database = Database(layout.database)
    database.add_blob(DIGEST, 5, b"recipe")
    copied = Layout(layout.root / "copy")  # as after `kill -9`: the files as they are now, nobody's locks
    copied.root.mkdir(parents=True)
    for path in (layout.database, layout.database.with_name("state.sqlite-wal")):
        (copied.root / path.name).write_bytes(path.read_bytes())
    again = Database(copied.database)
    assert again.contents().blobs == {DIGEST: 5}
    again.close()
    database.close()


def test_a_transaction_is_done_whole_or_not_at_all(layout: Layout) -> None:
    database = Database(layout.database)
    good = BlobFacts(DIGEST, 1, "a/b", (("reg.test", "x"),))
    bad = BlobFacts(Digest.of(b"y"), 2**80, "a/b", ())
    with pytest.raises(OverflowError):
        database.put_facts([good, bad])
    assert database.contents().facts == {}
    database.put_facts([good])
    assert database.contents().facts == {DIGEST: good}
    database.close()


def test_one_from_a_newer_meshsat_is_left_alone(layout: Layout) -> None:
    Database(layout.database).close()
    with sqlite3.connect(layout.database) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(StorageError, match="newer meshsat") as refusal:
        Database(layout.database)
    assert not isinstance(refusal.value, BrokenDatabaseError)


def test_rows_that_make_no_sense(layout: Layout) -> None:
    database = Database(layout.database)
    database.add_blob(DIGEST, 1, b"")
    database.close()
    with sqlite3.connect(layout.database) as connection:
        connection.execute("UPDATE blob SET digest = 'sha256:short'")
    connection.close()
    database = Database(layout.database)
    with pytest.raises(BrokenDatabaseError):
        database.contents()
    database.close()


def test_setting_aside_takes_the_log_with_it(layout: Layout) -> None:
    for content in ("one", "two"):
        layout.database.write_text(content)
        (layout.root / "state.sqlite-wal").write_text(content)
        set_aside(layout.database, layout.broken_database)
    assert sorted(path.name for path in layout.root.iterdir() if path.is_file()) == [
        "state.sqlite.broken",
        "state.sqlite.broken-wal",
    ]
    assert layout.broken_database.read_text() == "two"


def test_a_closed_one_raises_nothing_but_storage_errors(layout: Layout) -> None:
    database = Database(layout.database)
    database.close()
    for work in (
        database.contents,
        lambda: database.add_blob(DIGEST, 1, b""),
        lambda: database.put_facts([]),
    ):
        with pytest.raises(StorageError):
            work()


def test_a_file_that_rots_in_use_is_told_once_it_is_read(layout: Layout) -> None:
    told: list[str] = []
    database = Database(layout.database)
    database.on_rotten = told.append
    database.add_blobs([(Digest.of(f"{number}".encode()), number, bytes(200)) for number in range(3000)])
    assert told == []
    database._do("PRAGMA wal_checkpoint(TRUNCATE)")
    database._do("PRAGMA shrink_memory")
    size = layout.database.stat().st_size
    with layout.database.open("r+b") as file:  # all but the first pages
        file.seek(8192)
        file.write(b"\xa5" * (size - 8192))
    with pytest.raises(BrokenDatabaseError):
        database.contents()
    assert told
    assert "malformed" in told[0]
    database.close()


def test_how_blobs_are_goes_with_them(layout: Layout) -> None:
    now = [1000.0]
    database = Database(layout.database, lambda: now[0])
    other = Digest.of(b"other")
    database.add_blob(DIGEST, 5, b"")
    now[0] = 2000.0
    database.finish_partial(database.add_partial(other, 5).id, other, 5, b"")
    database.put_checked(DIGEST, 1500.0)
    database.put_claims({DIGEST: 1700.0}, {DIGEST: 1600.0})
    contents = database.contents()
    assert contents.claimed == {DIGEST: 1700.0, other: 2000.0}
    assert contents.checked == {DIGEST: 1500.0, other: 2000.0}
    assert contents.used == {DIGEST: 1600.0}
    database.drop_blob(DIGEST)
    contents = database.contents()
    assert contents.claimed.keys() == {other}
    assert contents.used == {}
    database._do("DELETE FROM care")
    database.put_claims({}, {DIGEST: 1.0})
    now[0] = 3000.0
    database.settle_care()
    contents = database.contents()
    assert (contents.claimed, contents.checked, contents.used) == ({other: 3000.0}, {other: 3000.0}, {})
    database.close()
