"""Every frame that there can be, for hypothesis."""

from hypothesis import strategies as st

from meshsat.oci.digest import ALGORITHMS, Digest
from meshsat.protocol import wire

NUMBER = st.one_of(st.integers(0, 5), st.integers(0, wire.BLOB_LIMIT))
TOKEN = st.integers(0, 2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=wire.TEXT_LIMIT)
SHORT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
DIGEST = st.builds(Digest.of, st.binary(max_size=3), st.sampled_from(ALGORITHMS))
CHUNK_DIGEST = st.binary(min_size=32, max_size=32)
SHELF = st.integers(0, 2)
PART = st.text("0123456789abcdef", max_size=16)
LEAVES = st.lists(st.binary(min_size=16, max_size=16), max_size=4).map(b"".join)
ADDRESSES = st.lists(SHORT, max_size=16).map(tuple)


def several(item: st.SearchStrategy[object], most: int = 4) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(item, max_size=most).map(tuple)


KINDS: dict[type[wire.Frame], st.SearchStrategy[wire.Frame]] = {
    wire.Hello: st.builds(wire.Hello, TEXT, st.booleans(), ADDRESSES, ADDRESSES),
    wire.Ping: st.builds(wire.Ping, TOKEN),
    wire.Pong: st.builds(wire.Pong, TOKEN),
    wire.Peers: st.builds(wire.Peers, DIGEST, several(st.tuples(SHORT, ADDRESSES, ADDRESSES), 64)),
    wire.Uplink: st.builds(wire.Uplink, st.booleans()),
    wire.Holds: st.builds(wire.Holds, several(st.tuples(DIGEST, NUMBER))),
    wire.Drops: st.builds(wire.Drops, several(DIGEST)),
    wire.Want: st.builds(
        wire.Want,
        several(st.tuples(DIGEST, NUMBER, TOKEN, NUMBER)),
        several(st.tuples(SHORT, SHORT, st.booleans()), 16),
    ),
    wire.Unwant: st.builds(wire.Unwant, several(DIGEST)),
    wire.Have: st.builds(wire.Have, DIGEST, st.binary(max_size=600)),
    wire.Entries: st.builds(
        wire.Entries,
        DIGEST,
        SHORT,
        NUMBER,
        st.lists(CHUNK_DIGEST, min_size=1, max_size=4).map(b"".join),
        st.binary(min_size=64, max_size=64),
    ),
    wire.AskEntries: st.builds(wire.AskEntries, DIGEST, NUMBER, st.binary(max_size=600)),
    wire.Request: st.builds(wire.Request, DIGEST, several(st.tuples(NUMBER, CHUNK_DIGEST), 5)),
    wire.Cancel: st.builds(wire.Cancel, DIGEST, several(NUMBER)),
    wire.Chunk: st.builds(wire.Chunk, DIGEST, NUMBER),
    wire.Reject: st.builds(wire.Reject, DIGEST, NUMBER),
    wire.Failed: st.builds(wire.Failed, DIGEST, TOKEN, TEXT),
    wire.Resolve: st.builds(wire.Resolve, SHORT, SHORT, SHORT, st.floats(0, wire.SECONDS_LIMIT)),
    wire.Resolved: st.builds(
        wire.Resolved, SHORT, SHORT, SHORT, st.binary(max_size=300), TOKEN, st.text(max_size=9)
    ),
    wire.Lease: st.builds(wire.Lease, DIGEST, NUMBER, NUMBER, NUMBER),
    wire.News: st.builds(
        wire.News, several(st.tuples(st.integers(0, 3), st.binary(max_size=300))), st.booleans()
    ),
    wire.Compare: st.builds(wire.Compare, several(st.tuples(SHELF, PART, TOKEN))),
    wire.Summary: st.builds(wire.Summary, several(st.tuples(SHELF, PART, LEAVES)), st.booleans()),
    wire.Find: st.builds(wire.Find, DIGEST, NUMBER),
}
FRAME: st.SearchStrategy[wire.Frame] = st.one_of(*KINDS.values())
