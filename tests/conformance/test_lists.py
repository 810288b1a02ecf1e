"""Content discovery: tags, page by page, and Docker's catalog (distribution-spec, "Listing Tags"; end-8a, end-8b)."""

import pytest

from tests.conformance.registry import Registry, next_page
from tests.images import OCI_MANIFEST, build_image, random_bytes

pytestmark = pytest.mark.slow

IMAGE = build_image([random_bytes(100, seed=40)])
NAMES = ["1.0", "1.10", "1.9", "B", "_z", "a", "b", "latest", "v1", "v2", "zz"]
"""In the order of their characters' codes."""
TAGS = sorted(NAMES)


@pytest.fixture
def tagged(registry: Registry, repository: str) -> str:
    """A repository with all of `TAGS`, pushed in another order than theirs."""
    registry.push(repository, IMAGE, *reversed(TAGS))
    return f"/v2/{repository}/tags/list"


def assert_ordered(tags: list[str]) -> None:
    """ "MUST be in lexical or ASCIIbetical order"."""
    assert tags in (sorted(tags), sorted(tags, key=str.lower))


def test_all_tags_in_order(registry: Registry, repository: str, tagged: str) -> None:
    """end-8a: MUST be 200, a JSON body of name and tags, in order."""
    answer = registry.ask("GET", tagged)
    assert answer.status == 200
    assert answer["content-type"].split(";")[0] == "application/json"
    assert answer.json["name"] == repository
    assert sorted(answer.json["tags"]) == TAGS
    assert_ordered(answer.json["tags"])
    assert answer.get("link") is None


def test_a_head_of_the_list(registry: Registry, tagged: str) -> None:
    """RFC 9110 9.3.2: HEAD is as GET."""
    answer = registry.ask("HEAD", tagged)
    assert (answer.status, answer.body) == (200, b"")


def test_a_repository_that_is_not_there_is_404(registry: Registry, repository: str) -> None:
    """end-8a: fails with 404; code-9."""
    answer = registry.ask("GET", f"/v2/{repository}/tags/list")
    assert answer.status == 404
    assert answer.codes == {"NAME_UNKNOWN"}


def test_a_repository_without_tags_is_empty(registry: Registry, repository: str) -> None:
    """end-8a: "the list of tags MAY be empty"; it is a list all the same."""
    registry.push(repository, IMAGE)
    answer = registry.ask("GET", f"/v2/{repository}/tags/list")
    assert (answer.status, answer.json) == (200, {"name": repository, "tags": []})


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10])
def test_page_by_page(registry: Registry, tagged: str, n: int) -> None:
    """end-8b: `n` results as long as there are more; Link, if there is one, by RFC 5988 with `rel="next"`."""
    answer = registry.ask("GET", f"{tagged}?n={n}")
    assert answer.json["tags"] == TAGS[:n]
    assert answer.get("link") is not None
    pages = [page.json["tags"] for page in registry.pages(f"{tagged}?n={n}")]
    assert [tag for page in pages for tag in page] == TAGS
    assert all(len(page) == n for page in pages[:-1])
    assert 0 < len(pages[-1]) <= n


@pytest.mark.parametrize("n", [len(TAGS), len(TAGS) + 1, 1000, 100_000])
def test_no_link_where_no_more_follow(registry: Registry, tagged: str, n: int) -> None:
    """end-8b: a Link MAY be there "when additional tags are available"."""
    answer = registry.ask("GET", f"{tagged}?n={n}")
    assert answer.json["tags"] == TAGS
    assert answer.get("link") is None


def test_a_page_of_nothing(registry: Registry, tagged: str) -> None:
    """end-8b: "when n is zero, this endpoint MUST return an empty list, and MUST NOT include a Link header"."""
    for target in (f"{tagged}?n=0", f"{tagged}?n=0&last=b"):
        answer = registry.ask("GET", target)
        assert (answer.status, answer.json["tags"], answer.get("link")) == (200, [], None)


@pytest.mark.parametrize("last", [*TAGS, "aa", "0", "~", "zzz", "AAA"])
@pytest.mark.parametrize("n", [None, 3])
def test_after_a_tag(registry: Registry, tagged: str, last: str, n: int | None) -> None:
    """end-8b: begins non-inclusively with `last`, whose `n` is OPTIONAL; it need not be there any more."""
    after = [tag for tag in TAGS if tag > last]
    suffix = "" if n is None else f"&n={n}"
    answer = registry.ask("GET", f"{tagged}?last={last}{suffix}")
    assert answer.status == 200
    assert answer.json["tags"] == after[:n]
    if n is not None and len(after) > n:
        assert f"last={after[n - 1]}" in next_page(answer)


@pytest.mark.parametrize("n", ["-1", "a", "1.5", "", "0x10", "%00", "9" * 40, "%EF%BC%91"])
def test_a_number_that_is_none_is_refused(registry: Registry, tagged: str, n: str) -> None:
    """end-8b: `n` is an integer."""
    answer = registry.ask("GET", f"{tagged}?n={n}")
    assert answer.status == 400
    assert answer.codes


def test_a_link_keeps_to_the_repository(registry: Registry, tagged: str) -> None:
    """RFC 5988, RFC 3986: the next page is of the same list, whatever form the reference has."""
    target = next_page(registry.ask("GET", f"{tagged}?n=4"))
    assert target.startswith(f"{tagged}?")


def test_a_new_tag_is_listed_at_once_and_a_moved_one_once(registry: Registry, repository: str) -> None:
    """end-7a, end-8a."""
    registry.push(repository, IMAGE, "a", "b")
    other = build_image([random_bytes(100, seed=41)])
    registry.push(repository, other, "b", "c")
    assert registry.tags(repository) == ["a", "b", "c"]


def test_many_tags(registry: Registry, repository: str) -> None:
    """end-8a, end-8b: none is lost and none comes twice, however many there are."""
    registry.push(repository, IMAGE)
    names = [f"build-{number:04}" for number in range(240)]
    for start in range(0, len(names), 10):
        query = "&".join(f"tag={name}" for name in names[start : start + 10])
        answer = registry.put(repository, f"{IMAGE.root}?{query}", IMAGE.raw, OCI_MANIFEST)
        assert answer.status == 201
    target = f"/v2/{repository}/tags/list"
    assert [tag for page in registry.pages(target) for tag in page.json["tags"]] == names
    assert [tag for page in registry.pages(f"{target}?n=100") for tag in page.json["tags"]] == names


# --- Docker's catalog -----------------------------------------------------------------------------------------


@pytest.fixture
def catalogued(registry: Registry, repository: str) -> list[str]:
    names = sorted(f"{repository}/{name}" for name in ("a", "b", "b/c", "b-d", "zz"))
    for name in reversed(names):
        registry.push(name, IMAGE, "v1")
    return names


def test_the_catalog_lists_repositories(registry: Registry, catalogued: list[str]) -> None:
    """Docker Registry HTTP API V2, "Listing Repositories": `/v2/_catalog`, in order, each once."""
    answer = registry.ask("GET", "/v2/_catalog")
    assert answer.status == 200
    assert answer["content-type"].split(";")[0] == "application/json"
    listed = [name for page in registry.pages("/v2/_catalog") for name in page.json["repositories"]]
    assert listed == sorted(set(listed))
    assert set(catalogued) <= set(listed)


def test_the_catalog_page_by_page(registry: Registry, catalogued: list[str]) -> None:
    """Docker Registry HTTP API V2, "Pagination": `n`, `last` and Link."""
    whole = [name for page in registry.pages("/v2/_catalog") for name in page.json["repositories"]]
    pages = [page.json["repositories"] for page in registry.pages("/v2/_catalog?n=2")]
    assert [name for page in pages for name in page] == whole
    assert all(len(page) == 2 for page in pages[:-1])
    after = registry.ask("GET", f"/v2/_catalog?last={catalogued[1]}&n=2").json["repositories"]
    assert after == [name for name in whole if name > catalogued[1]][:2]
