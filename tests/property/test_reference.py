"""Whatever is a reference prints as text that is the same reference."""

from contextlib import suppress

from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest
from meshsat.oci.reference import DOCKER_HUB, Reference, parse_repository_untrusted

STEADY = settings(derandomize=True, database=None, deadline=None, max_examples=50)
COMPONENT = st.from_regex(r"[a-z0-9]{1,4}((\.|_|__|-{1,3})[a-z0-9]{1,3}){0,2}", fullmatch=True)
REGISTRY = st.one_of(
    st.just(DOCKER_HUB),
    st.just("localhost"),
    st.from_regex(r"[a-z0-9]{1,5}(\.[a-z]{1,5}){1,2}(:[1-9][0-9]{0,3})?", fullmatch=True),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]:5000"),
)
TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,12}", fullmatch=True)
DIGEST = st.builds(Digest.of, st.binary(max_size=4), st.sampled_from(["sha256", "sha512"]))


@st.composite
def references(draw: st.DrawFn) -> Reference:
    registry = draw(REGISTRY)
    # On Docker Hub a name of one component is short for library/NAME: no value has it.
    least = 2 if registry == DOCKER_HUB else 1
    repository = "/".join(draw(st.lists(COMPONENT, min_size=least, max_size=4)))
    tag, digest = draw(st.one_of(st.none(), TAG)), draw(st.one_of(st.none(), DIGEST))
    return Reference(registry, repository, "latest" if tag is None and digest is None else tag, digest)


@STEADY
@given(references())
def test_values_come_back_from_their_text(reference: Reference) -> None:
    assert Reference.parse_untrusted(str(reference)) == reference
    assert parse_repository_untrusted(reference.repository) == reference.repository


@STEADY
@given(st.one_of(st.text(max_size=40), st.text("aAb0.:/@-_[]", max_size=40)))
@example("A.b/c")
@example("localhost:5")
def test_texts_that_parse_have_one_spelling(text: str) -> None:
    with suppress(InvalidInputError):
        reference = Reference.parse_untrusted(text)
        assert Reference.parse_untrusted(str(reference)) == reference
        assert str(Reference.parse_untrusted(str(reference))) == str(reference)
