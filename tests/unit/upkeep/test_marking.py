"""The order in which images go, and what goes with them."""

from meshsat.oci.digest import Digest
from meshsat.upkeep.marking import Links, Stock, Unit, above, choose, mark, order, unmarked

A, B, C, LAYER, OTHER, SHARED, SIGNATURE = (Digest("sha256", f"{number:064x}") for number in range(7))
SIZES = {A: 1, B: 1, C: 1, LAYER: 10, OTHER: 20, SHARED: 40, SIGNATURE: 3}
LINKS = {A: Links((), (LAYER, SHARED)), B: Links((), (OTHER, SHARED)), C: Links((A, B))}


def stock(*units: Unit, **more: object) -> Stock:
    return Stock(0, SIZES, LINKS, {}, units=units, **more)  # type: ignore[arg-type]


def everywhere(_digest: Digest) -> bool:
    return True


def nowhere(_digest: Digest) -> bool:
    return False


def image(root: Digest, used_at: float = 0.0, *, site: bool = False) -> Unit:
    return Unit(root, (f"reg.test/{root.hex[-1]}:1",), used_at, site)


def test_the_least_recently_pulled_goes_first() -> None:
    chosen = choose(stock(image(A, 2.0), image(B, 1.0)), 5, everywhere)
    assert [unit.root for unit in chosen.units] == [B]
    assert chosen.blobs == {B, OTHER}, "what another image needs stays"
    assert chosen.freed == 21


def test_the_last_copy_of_the_site_goes_last() -> None:
    held = {A, LAYER, SHARED}
    chosen = choose(stock(image(A, 2.0), image(B, 1.0)), 5, held.__contains__)
    assert [unit.root for unit in chosen.units] == [A]
    both = choose(stock(image(A, 2.0), image(B, 1.0)), 50, held.__contains__)
    assert [unit.root for unit in both.units] == [A, B]
    assert both.freed == 72


def test_what_is_pinned_or_desired_never_goes() -> None:
    chosen = choose(stock(image(A), image(B), required=frozenset({A})), 1000, everywhere)
    assert [unit.root for unit in chosen.units] == [B]
    assert SHARED not in chosen.blobs
    assert choose(stock(image(A), image(B), required=frozenset({C})), 1000, everywhere).blobs == frozenset()


def test_what_is_on_its_way_or_just_claimed_stays() -> None:
    assert choose(stock(image(A), wanted=frozenset({LAYER})), 1000, everywhere).units == ()
    assert choose(stock(image(A), settling=frozenset({A})), 1000, everywhere).units == ()
    assert LAYER not in choose(stock(image(A), settling=frozenset({LAYER})), 1000, everywhere).blobs


def test_site_content_goes_only_when_a_peer_keeps_it_and_its_manifest_stays() -> None:
    content = stock(image(A, site=True), site=frozenset({A}))
    assert choose(content, 1000, nowhere).units == ()
    assert choose(content, 1000, everywhere).blobs == {LAYER, SHARED}


def test_named_images_go_alone_unless_another_name_or_reason_keeps_them() -> None:
    first, second = image(A, 9.0), image(B, 1.0)
    chosen = choose(stock(first, second), 0, nowhere, only=first.names)
    assert chosen.units == (first,)
    assert chosen.blobs == {A, LAYER}
    twice = Unit(A, (*first.names, "reg.test/another:1"))
    assert choose(stock(twice), 0, nowhere, only=first.names).units == ()
    assert choose(stock(first, required=frozenset({A})), 0, nowhere, only=first.names).units == ()


def test_a_signature_lives_as_long_as_its_subject() -> None:
    signed = Stock(0, SIZES, LINKS, {A: {SIGNATURE}}, units=(image(A),))
    assert SIGNATURE not in unmarked(signed, mark(signed))
    assert SIGNATURE in choose(signed, 1000, everywhere).blobs
    alone = Stock(0, SIZES, LINKS, {A: {SIGNATURE}})
    assert SIGNATURE in unmarked(alone, mark(alone))


def test_manifests_go_before_what_they_refer_to() -> None:
    assert unmarked(stock(), mark(stock()))[:3] == [C, A, B]
    index = stock(image(C))
    assert order(index, choose(index, 1000, everywhere))[:3] == [C, A, B]


def test_what_refers_to_a_blob_on_its_way_stays_with_all_that_it_refers_to() -> None:
    """An image that comes by its digest has no tag, and is not whole yet."""
    assert above([OTHER], LINKS) == {B, C}
    coming = stock(wanted=frozenset({OTHER}))
    assert unmarked(coming, mark(coming)) == [SIGNATURE]
