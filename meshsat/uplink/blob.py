"""BlobStream: a range of one blob's bytes, through broken connections, stalls and busy registries.

Laws: it yields exactly the bytes asked for, in order, each once; leaving its context closes the connection at
once; a resume asks for the bytes still missing only. An upstream that ignores Range is read from its first
byte, and what was not wanted is thrown away and paid for. It does not know whether the bytes are right: the
reader checks chunks and blob against their digests.
"""

from typing import Self

import structlog
import trio

from meshsat.errors import DigestMismatchError, InvalidInputError
from meshsat.oci.digest import Digest
from meshsat.uplink import answers
from meshsat.uplink.network import Answer, WireError, origin_of
from meshsat.uplink.patience import Patience
from meshsat.uplink.upstreams import Ask, Upstreams

log = structlog.get_logger(__name__)

FINISH_LIMIT = 1.0
"""Seconds for an answer to end after the last byte wanted of it."""


class BlobStream:
    """`async with uplink.blob(...) as stream: async for piece in stream: ...`; pieces of at most 64 KiB."""

    def __init__(
        self, upstreams: Upstreams, patience: Patience, ask: Ask, digest: Digest, span: range, size: int
    ) -> None:
        """`ask` without a Range; `span` is the bytes wanted of the blob's `size`."""
        self._upstreams = upstreams
        self._patience = patience
        self._ask = ask
        self._digest = digest
        self._at, self._stop, self._size = span.start, span.stop, size
        self._whole = span == range(size)
        self._skip = 0
        self._ends_here = False
        self._answer: Answer | None = None
        self.skipped = 0
        """Bytes received and thrown away because the upstream ignores Range."""

    @property
    def at(self) -> int:
        """Offset in the blob of the next byte to be yielded."""
        return self._at

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Raises `NotFoundError`, `DeniedError`, `UnavailableError`, and `DigestMismatchError` where the
        upstream's blob has another size."""
        while self._at < self._stop:
            try:
                piece = await self._next()
            except WireError as fault:
                await self._close()
                self._upstreams.failed(self._ask.registry, str(fault))
                log.info("blob broken off", blob=str(self._digest), at=self._at, reason=str(fault))
                await self._patience.after(fault)
                continue
            if piece:
                self._at += len(piece)
                self._patience.progress()
                return piece
        await self._finish()
        raise StopAsyncIteration

    async def _next(self) -> bytes:
        """The next bytes wanted; empty when those that came were not."""
        answer = self._answer
        if answer is None:
            answer = self._answer = await self._open()
        piece = await answer.part()
        if piece is None:
            raise WireError(
                f"registry {self._ask.registry}: {origin_of(answer.url)} ended blob {self._digest} at byte "
                f"{self._at} instead of {self._stop}"
            )
        if self._skip:
            skipped = min(self._skip, len(piece))
            self._skip -= skipped
            self.skipped += skipped
            piece = piece[skipped:]
        return piece if len(piece) <= self._stop - self._at else piece[: self._stop - self._at]

    async def _open(self) -> Answer:
        wants_all = self._whole and self._at == 0
        headers = {} if wants_all else {"Range": f"bytes={self._at}-{self._stop - 1}"}
        ask = Ask(self._ask.kind, self._ask.registry, self._ask.repository, self._ask.path, headers=headers)
        answer = await self._upstreams.get(ask, bulk=True)
        try:
            start, stop = self._extent_untrusted(answer)
        except BaseException:
            await answer.aclose()
            raise
        self._skip = self._at - start
        self._ends_here = stop == self._stop
        if not wants_all and answer.status == 200:
            state = self._upstreams.state(self._ask.registry)
            if not state.ignores_ranges:
                log.warning("upstream ignores Range: bytes are paid for twice", registry=self._ask.registry)
            state.ignores_ranges = True
        return answer

    def _extent_untrusted(self, answer: Answer) -> tuple[int, int]:
        """Where in the blob the answer's body begins and stops. Raises `WireError` where it is of no use,
        `DigestMismatchError` where it cannot be this blob."""
        extent = answers.ContentRange(0, self._size, None)
        try:
            if answer.status != 200:
                extent = answers.parse_content_range_untrusted(answer.headers.get("content-range", ""))
            elif "content-length" in answer.headers:
                length = answers.parse_length_untrusted(answer.headers["content-length"])
                extent = answers.ContentRange(0, length, length)
        except InvalidInputError as fault:
            raise WireError(f"{origin_of(answer.url)} answered for blob {self._digest}: {fault}") from None
        if extent.total is not None and extent.total != self._size:
            raise DigestMismatchError(
                f"blob {self._digest} has {self._size} bytes, but {origin_of(answer.url)} has {extent.total} "
                "under that name; it is not used"
            )
        if not extent.start <= self._at < extent.stop:
            raise WireError(f"{origin_of(answer.url)} did not send byte {self._at} of blob {self._digest}")
        return extent.start, extent.stop

    async def _finish(self) -> None:
        """All is delivered. Where the answer ends here too, read its end, so that its connection is kept."""
        if self._answer is not None and self._ends_here:
            try:
                with trio.move_on_after(FINISH_LIMIT):
                    await self._answer.part()
            except WireError as fault:
                log.info("blob ended badly", blob=str(self._digest), reason=str(fault))
        await self._close()

    async def _close(self) -> None:
        if self._answer is not None:
            answer, self._answer = self._answer, None
            await answer.aclose()
