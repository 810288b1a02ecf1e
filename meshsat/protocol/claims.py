"""Who says what about a blob's chunks, before the blob itself can prove it.

The cut of a blob follows from its size, but the digests of its chunks are one node's word until the whole
blob is there and has its own digest. So every entry has an author, who signed it. When the assembled blob
does not match, the authors it stood on are barred for this blob; when a blob is proven, whoever said
otherwise is a proven liar.
"""

from collections import Counter
from collections.abc import Iterable

from meshsat.chunking.cut import Cut
from meshsat.oci.digest import Digest
from meshsat.protocol import bitset
from meshsat.protocol.wire import CHUNK_DIGEST, Entries
from meshsat.trust.keys import PeerId

AUTHOR_LIMIT = 16
"""Authors heard for one blob; honest sites have as many as they have uplinks."""
BATCH_LIMIT = 1024
"""Entries in one frame."""


class Claims:
    def __init__(self, blob: Digest, cut: Cut) -> None:
        self._count = cut.count
        self._blob = blob
        self._said: dict[PeerId, dict[int, bytes]] = {}
        self._batches: dict[PeerId, list[Entries]] = {}
        self._kept: Counter[PeerId] = Counter()
        """Bytes of an author's batches: overlapping ones are passed on up to twice the recipe's length."""
        self._met: set[PeerId] = set()
        """Authors that spoke to us themselves."""
        self._barred: set[PeerId] = set()
        self._trial: list[PeerId] = []
        """Authors of a recipe that proved wrong, to be heard one by one; only the first is believed now."""
        self._disputed: dict[int, set[PeerId]] = {}
        """Authors whose word for a chunk a holder of it did not share."""
        self._proof: dict[int, bytes] = {}
        self.known = 0
        """Bits of the chunks whose digest somebody who is not barred has told."""
        if cut.count == 1 and blob.algorithm == "sha256":
            self.prove([blob.raw])

    def digest(self, index: int) -> bytes | None:
        """What to expect of this chunk."""
        word = self.word(index)
        return None if word is None else word[0]

    def word(self, index: int) -> tuple[bytes, PeerId | None] | None:
        """The digest believed, and on whose word; None as author: it is proven."""
        if index in self._proof:
            return self._proof[index], None
        disputed = self._disputed.get(index, ())
        word: tuple[bytes, PeerId | None] | None = None
        for author, said in self._said.items():
            if index in said and self._believed(author):
                if author not in disputed:
                    return said[index], author
                word = word or (said[index], author)
        return word

    def dispute(self, index: int) -> bool:
        """A holder of this chunk has another one under its index. True if there is another word to go by."""
        word = self.word(index)
        if word is None or word[1] is None:
            return False
        digest, _ = word
        disputed = self._disputed.setdefault(index, set())
        disputed.update(author for author, said in self._said.items() if said.get(index) == digest)
        other = self.digest(index)
        if other == digest:
            disputed.clear()
        return other != digest

    def author(self, index: int, digest: bytes) -> PeerId | None:
        """On whose word this is the chunk's digest; None: it is proven, or nobody said so."""
        if index in self._proof:
            return None
        spoke = [author for author, said in self._said.items() if said.get(index) == digest]
        return next(filter(self._believed, spoke), spoke[0] if spoke else None)

    def _believed(self, author: PeerId) -> bool:
        if self._trial:
            return author == self._trial[0]
        return author not in self._barred

    def learn(self, entries: Entries, *, direct: bool = True) -> int:
        """Take an author's entries in; returns the bits that nobody had told before.

        What the author tells us itself (`direct`) replaces what it told before; what others pass on does not.
        """
        author = PeerId(entries.author)
        count = len(entries.digests) // CHUNK_DIGEST
        if author in self._barred or entries.first + count > self._count:
            return 0
        if author not in self._said and len(self._said) >= AUTHOR_LIMIT and not self._make_room(direct):
            return 0
        if direct:
            self._met.add(author)
        said = self._said.setdefault(author, {})
        before = self.known
        fresh = False
        for position in range(count):
            index = entries.first + position
            digest = entries.digests[position * CHUNK_DIGEST : (position + 1) * CHUNK_DIGEST]
            if index not in said or (direct and said[index] != digest):
                said[index] = digest
                fresh = True
        self._keep(author, entries, fresh=fresh)
        if self._believed(author):
            self.known |= bitset.span(entries.first, entries.first + count)
        return self.known & ~before

    def _make_room(self, direct: bool) -> bool:
        """Whoever speaks for itself comes before those that others told of: names are cheap to make up."""
        told_of = [author for author in self._said if author not in self._met and author not in self._trial]
        if not direct or not told_of:
            return False
        for kept in (self._said, self._batches, self._kept):
            kept.pop(told_of[-1], None)
        self._recount()
        return True

    def _keep(self, author: PeerId, entries: Entries, *, fresh: bool) -> None:
        """To be passed on: news, and what says in one frame what took several."""
        batches = self._batches.setdefault(author, [])
        rest = batches
        if len(entries.digests) > CHUNK_DIGEST:
            rest = [one for one in batches if not _covers(entries, one)]
        if not fresh and len(rest) + 1 >= len(batches):
            return
        kept = sum(len(one.digests) for one in rest) if rest is not batches else self._kept[author]
        if kept + len(entries.digests) <= 2 * self._count * CHUNK_DIGEST:
            self._batches[author] = rest
            rest.append(entries)
            self._kept[author] = kept + len(entries.digests)

    def run_of(self, author: PeerId, first: int, last: int) -> tuple[int, bytes]:
        """The author's words up to chunk `last`, from `first` or the last gap on: where that is, and they."""
        said = self._said.get(author, {})
        start = last + 1
        while start > first and start - 1 in said:
            start -= 1
        return start, b"".join(said[index] for index in range(start, last + 1))

    def kept(self, entries: Entries) -> bool:
        """Whether just these entries were taken in before."""
        return entries in self._batches.get(PeerId(entries.author), ())

    def prove(self, chunks: Iterable[bytes]) -> None:
        """The blob is proven: these are its chunks."""
        self._proof = dict(enumerate(chunks))
        self.known = bitset.full(self._count)

    def liars(self) -> list[PeerId]:
        """Authors, barred or not, who said something else than what is proven."""
        return [
            author
            for author, said in self._said.items()
            if any(self._proof.get(index, digest) != digest for index, digest in said.items())
        ]

    def accuse(self, authors: list[PeerId]) -> None:
        """The blob, assembled on these authors' word, proved wrong. One of one is barred; of several each is
        heard alone, in turn, until the blob is right or all are barred."""
        if self._trial:
            self._barred.add(self._trial.pop(0))
        elif len(authors) == 1:
            self._barred.update(authors)
        else:
            self._trial = sorted(authors)
        for author in self._barred:
            self._batches.pop(author, None)
        self._recount()

    def is_barred(self, author: PeerId) -> bool:
        return author in self._barred

    def hopeless(self) -> bool:
        """Everybody who spoke is barred."""
        return bool(self._said) and not any(self._believed(author) for author in self._said)

    def forget_authors(self) -> None:
        """Give everybody another hearing: nobody is left who can be believed."""
        self._said.clear()
        self._disputed.clear()
        self._batches.clear()
        self._kept.clear()
        self._barred.clear()
        self._trial.clear()
        self._recount()

    def _recount(self) -> None:
        self.known = bitset.full(self._count) if self._proof else 0
        for author, said in self._said.items():
            if self._believed(author):
                self.known |= bitset.of(said)

    def batches(self, bits: int) -> list[Entries]:
        """The signed entries that cover these chunks, as their authors sent them."""
        return [
            entries
            for batches in self._batches.values()
            for entries in batches
            if bits & bitset.span(entries.first, entries.first + len(entries.digests) // CHUNK_DIGEST)
        ]


def _covers(whole: Entries, part: Entries) -> bool:
    """Whether `whole` says all that `part` says."""
    offset = (part.first - whole.first) * CHUNK_DIGEST
    return offset >= 0 and whole.digests[offset : offset + len(part.digests)] == part.digests


def in_batches(bits: int) -> Iterable[tuple[int, int]]:
    """The runs (start, stop) of neighbouring chunks in `bits`, none longer than a frame takes."""
    while bits:
        start = bitset.lowest(bits)
        length = bitset.lowest(~(bits >> start))
        stop = min(start + length, start + BATCH_LIMIT)
        yield start, stop
        bits &= ~bitset.span(start, stop)
