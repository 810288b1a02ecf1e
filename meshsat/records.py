"""What tags mean, kept over restarts: between the machine's records and the store's rows."""

import structlog
import trio

from meshsat.errors import InvalidInputError, StorageError
from meshsat.oci.descriptor import Descriptor
from meshsat.oci.reference import SITE
from meshsat.protocol.gossip import ImageRecord, open_record_untrusted
from meshsat.store.records import TagRecord
from meshsat.store.store import Store

log = structlog.get_logger(__name__)

QUEUE = 4096


def from_store_untrusted(store: Store, now: float) -> list[ImageRecord]:
    """The records that an earlier run left. `now` is Unix time. What does not verify is left out."""
    records: list[ImageRecord] = []
    for row in store.records():
        try:
            records.append(open_record_untrusted(row.sealed, now))
        except InvalidInputError as lost:
            log.debug("a tag's record can't be passed on", tag=row.tag, problem=str(lost))
    return records


def row_of(record: ImageRecord) -> TagRecord:
    """As the store keeps it."""
    return TagRecord(
        *record.key,
        Descriptor(record.media_type, record.digest, record.size),
        record.resolved_at,
        record.author,
        record.sealed,
    )


class RecordKeeper:
    """Writes records down, one after the other."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._put, self._take = trio.open_memory_channel[ImageRecord](QUEUE)

    def keep(self, record: ImageRecord) -> None:
        """Write it down, soon."""
        try:
            self._put.send_nowait(record)
        except trio.WouldBlock:
            log.warning(
                "a record is not kept over a restart: the disk is too slow", reference=record.reference
            )

    async def run(self) -> None:
        """Run until cancelled."""
        async for record in self._take:
            known = self._store.record(*record.key)
            if ":" in record.reference and record.registry != SITE:
                continue
            if known is not None and known.resolved_at >= record.resolved_at:
                continue
            try:
                await self._store.put_tag(row_of(record))
            except StorageError as full:
                log.warning("a record is not kept over a restart", problem=str(full))
