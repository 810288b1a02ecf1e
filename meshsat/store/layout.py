"""Every path of the store, in one place. Paths only: nothing here touches the disk.

DATA/store/                     an OCI image layout (image-spec 1.1), which skopeo, crane and oras read
|-- oci-layout                  marks it as one
|-- index.json                  the images that are whole, named REGISTRY/REPOSITORY:TAG
|-- blobs/
|   |-- sha256/<hex>            published blobs: whole, verified, durable, read-only
|   `-- sha512/<hex>
|-- partial/<algorithm>-<hex>   blobs on their way: sparse; state.sqlite tells which chunks are right
|-- incoming/<anything>         files being written; emptied at every start
|-- quarantine/<algorithm>-<hex>   published blobs whose bytes proved rotten, for whoever asks why; the newest
|-- uploads/<id>                what clients push, as far as it came; state.sqlite tells whose each is
|-- state.sqlite                tags, images, pins, facts, recipes, and the chunks of partial blobs
|-- state.sqlite.broken         the last one that could not be read, set aside for whoever asks why
|-- state.sqlite.rotten         a mark: this one proved broken in use, and is set aside at the next start
`-- lock                        held by the one process that works here; tells its pid
"""

from dataclasses import dataclass
from pathlib import Path

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import ALGORITHMS, Digest


@dataclass(frozen=True, slots=True)
class Layout:
    data_dir: Path

    @property
    def root(self) -> Path:
        return self.data_dir / "store"

    @property
    def marker(self) -> Path:
        return self.root / "oci-layout"

    @property
    def index(self) -> Path:
        return self.root / "index.json"

    @property
    def blob_dirs(self) -> tuple[Path, ...]:
        return tuple(self.root / "blobs" / algorithm for algorithm in ALGORITHMS)

    @property
    def partial_dir(self) -> Path:
        return self.root / "partial"

    @property
    def incoming_dir(self) -> Path:
        return self.root / "incoming"

    @property
    def uploads_dir(self) -> Path:
        return self.root / "uploads"

    @property
    def quarantine_dir(self) -> Path:
        return self.root / "quarantine"

    @property
    def database(self) -> Path:
        return self.root / "state.sqlite"

    @property
    def broken_database(self) -> Path:
        return self.root / "state.sqlite.broken"

    @property
    def rotten_database(self) -> Path:
        """Says that the database proved broken in use: it is not to be opened again."""
        return self.root / "state.sqlite.rotten"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def directories(self) -> tuple[Path, ...]:
        """What must exist, parents first."""
        return (
            self.data_dir,
            self.root,
            *self.blob_dirs,
            self.partial_dir,
            self.incoming_dir,
            self.uploads_dir,
            self.quarantine_dir,
        )

    def blob(self, digest: Digest) -> Path:
        return self.root / "blobs" / digest.algorithm / digest.hex

    def partial(self, digest: Digest) -> Path:
        return self.partial_dir / f"{digest.algorithm}-{digest.hex}"

    def quarantined(self, digest: Digest) -> Path:
        return self.quarantine_dir / f"{digest.algorithm}-{digest.hex}"

    def upload(self, upload_id: str) -> Path:
        return self.uploads_dir / upload_id

    def incoming(self, name: str) -> Path:
        return self.incoming_dir / name


def digest_of_blob_name(algorithm: str, name: str) -> Digest | None:
    """The digest that a file under `blobs/ALGORITHM/` is named for; None for a file that is none of ours."""
    try:
        return Digest.parse_untrusted(f"{algorithm}:{name}")
    except InvalidInputError:
        return None
