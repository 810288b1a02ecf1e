import re
from pathlib import Path

from meshsat.oci.digest import Digest
from meshsat.store import layout as module
from meshsat.store.layout import Layout, digest_of_blob_name


def test_every_path_is_drawn() -> None:
    layout = Layout(Path("DATA"))
    drawn = set(re.findall(r"[|`]-- (\S+?)/?(?:[<\s]|$)", module.__doc__ or "", re.MULTILINE))
    paths = [layout.marker, layout.index, layout.partial_dir, layout.incoming_dir, layout.database]
    paths += [layout.broken_database, layout.lock, *layout.blob_dirs, layout.blob_dirs[0].parent]
    names = {path.name for path in paths}
    assert names <= drawn | {"partial", "incoming"}
    assert all(path.is_relative_to("DATA/store") for path in paths)


def test_blob_names_lead_back_to_digests() -> None:
    for algorithm in ("sha256", "sha512"):
        digest = Digest.of(b"x", algorithm)
        path = Layout(Path("DATA")).blob(digest)
        assert digest_of_blob_name(path.parent.name, path.name) == digest
    assert digest_of_blob_name("sha256", "README") is None
    assert digest_of_blob_name("sha512", Digest.of(b"x").hex) is None


def test_partial_names_are_one_a_digest() -> None:
    layout = Layout(Path("DATA"))
    digests = [Digest.of(b"x"), Digest.of(b"y"), Digest.of(b"x", "sha512")]
    assert len({layout.partial(digest) for digest in digests}) == 3


def test_parents_come_before_their_children() -> None:
    directories = Layout(Path("/DATA")).directories
    for number, path in enumerate(directories):
        assert all(later not in path.parents for later in directories[number:])
