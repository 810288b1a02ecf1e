"""What must stay and what may go, over any stock: against an oracle that goes round until nothing changes."""

from collections.abc import Collection

from hypothesis import given, settings
from hypothesis import strategies as st

from meshsat.oci.digest import Digest
from meshsat.upkeep.marking import Links, Stock, Unit, choose, mark, reach, unmarked

DIGESTS = [Digest("sha256", f"{number:064x}") for number in range(12)]
SOME = st.frozensets(st.sampled_from(DIGESTS), max_size=3)


@st.composite
def stocks(draw: st.DrawFn) -> Stock:
    """Any graph, cycles and all: a hostile manifest can't make one, but nothing here may rely on that."""
    held = draw(st.frozensets(st.sampled_from(DIGESTS)))
    few = st.lists(st.sampled_from(DIGESTS), max_size=3)
    links = {
        digest: Links(tuple(draw(few)), tuple(draw(few)))
        for digest in draw(st.frozensets(st.sampled_from(DIGESTS), max_size=6))
    }
    dependents = draw(st.dictionaries(st.sampled_from(DIGESTS), SOME, max_size=3))
    units = tuple(
        Unit(digest, (f"image-{number}",), draw(st.floats(0, 10)), draw(st.booleans()))
        for number, digest in enumerate(draw(SOME) & held)
    )
    return Stock(
        changes=0,
        sizes={digest: draw(st.integers(1, 100)) for digest in sorted(held)},
        links=links,
        dependents=dependents,
        required=draw(SOME),
        site=draw(SOME) & held,
        loose=draw(SOME),
        units=units,
        wanted=draw(SOME),
        young=draw(SOME),
        settling=draw(SOME),
    )


def grown(stock: Stock, start: Collection[Digest]) -> set[Digest]:
    """All that can be reached, by going round until nothing is new."""
    found = set(start)
    while True:
        more = set(found)
        for digest in found:
            if digest in stock.links:
                more |= set(stock.links[digest].children)
            more |= set(stock.dependents.get(digest, ()))
        if more == found:
            return found
        found = more


def reasons(stock: Stock) -> set[Digest]:
    return {*stock.required, *stock.site, *stock.young, *stock.wanted, *(unit.root for unit in stock.units)}


@given(stocks())
@settings(deadline=None, max_examples=300)
def test_nothing_reachable_goes_and_everything_else_does(stock: Stock) -> None:
    kept = grown(stock, reasons(stock)) | stock.loose
    above = {
        digest for digest in stock.links if not stock.wanted.isdisjoint(grown_below(stock, digest) - {digest})
    }
    kept |= grown(stock, above)
    gone = unmarked(stock, mark(stock))
    assert not kept & set(gone)
    assert set(gone) == set(stock.sizes) - kept
    assert len(gone) == len(set(gone))


def grown_below(stock: Stock, root: Digest) -> set[Digest]:
    """By links alone, `root` itself only where something below leads back to it."""
    found = set(stock.links[root].children)
    while True:
        more = {child for digest in found if digest in stock.links for child in stock.links[digest].children}
        if more <= found:
            return found
        found |= more


@given(stocks(), st.integers(0, 300), st.frozensets(st.sampled_from(DIGESTS)))
@settings(deadline=None, max_examples=300)
def test_an_eviction_leaves_no_hole(stock: Stock, need: int, elsewhere: frozenset[Digest]) -> None:
    chosen = choose(stock, need, elsewhere.__contains__)
    closures = {unit.root: reach([unit.root], stock.links, stock.dependents) for unit in stock.units}
    assert chosen.blobs <= set(stock.sizes)
    assert chosen.freed == sum(stock.sizes[digest] for digest in chosen.blobs)
    kept = grown(stock, stock.required) | stock.site | stock.loose | stock.wanted | stock.settling
    assert not chosen.blobs & kept
    for unit in stock.units:
        if unit not in chosen.units:
            assert not chosen.blobs & closures[unit.root], "an image that stays is whole"
        else:
            assert unit.root not in stock.required
            assert not stock.wanted & closures[unit.root]
            assert not unit.site or all(
                digest in elsewhere or digest in kept for digest in closures[unit.root] & set(stock.sizes)
            ), "the last copy of what no upstream has stays"
    assert need > 0 or not chosen.units


@given(stocks(), st.integers(1, 300), st.frozensets(st.sampled_from(DIGESTS)))
@settings(deadline=None, max_examples=300)
def test_an_eviction_stops_as_soon_as_it_can(stock: Stock, need: int, elsewhere: frozenset[Digest]) -> None:
    chosen = choose(stock, need, elsewhere.__contains__)
    everything = choose(stock, 1 << 60, elsewhere.__contains__)
    assert chosen.blobs <= everything.blobs
    assert chosen.freed >= min(need, everything.freed)
