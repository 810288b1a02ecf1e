"""The desired state says what it may say, for whom, and nothing malformed gets in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsat.errors import InvalidInputError
from meshsat.fleet.document import (
    DOCUMENT_LIMIT,
    DesiredState,
    encode_state,
    parse_state_untrusted,
    state_of,
)

DIGEST = "sha256:" + "a" * 64
POS = f"harbor.example/library/pos:42@{DIGEST}"


def state(**words: object) -> DesiredState:
    return state_of(words)


def image(reference: str = POS, **words: object) -> dict[str, object]:
    return {"reference": reference, **words}


def names(document: DesiredState, site: str) -> list[str]:
    return [one.name for one in document.images_for(site)]


def test_sites_groups_and_everybody() -> None:
    document = state(
        groups={"eu": {"sites": ["store-1", "berlin-*"]}},
        images=[
            image("r.example/a:1", sites=["store-*"]),
            image("r.example/b:1", groups=["eu"]),
            image("r.example/c:1"),
        ],
    )
    assert names(document, "store-1") == ["r.example/a:1", "r.example/b:1", "r.example/c:1"]
    assert names(document, "store-2") == ["r.example/a:1", "r.example/c:1"]
    assert names(document, "berlin-x") == ["r.example/b:1", "r.example/c:1"]
    assert names(document, "oslo") == ["r.example/c:1"]


def test_of_one_name_the_first_that_is_for_the_site_counts() -> None:
    document = state(
        images=[
            image("r.example/pos:1", sites=["canary"], keep=3),
            image("r.example/pos:1", keep=0),
            image("r.example/other/pos:1"),
        ]
    )
    assert [(one.name, one.keep) for one in document.images_for("canary")] == [
        ("r.example/pos:1", 3),
        ("r.example/other/pos:1", 1),
    ]
    assert document.images_for("oslo")[0].keep == 0


def test_the_important_comes_first_and_equals_keep_their_order() -> None:
    document = state(
        images=[
            image("r.example/a:1"),
            image("r.example/b:1", priority=90),
            image("r.example/c:1"),
        ]
    )
    assert names(document, "x") == ["r.example/b:1", "r.example/a:1", "r.example/c:1"]


def test_the_first_limits_for_a_site_hold() -> None:
    document = state(limits=[{"sites": ["train-*"], "rate": 1000}, {"rate": 5000}])
    train, store = document.limits_for("train-7"), document.limits_for("store-7")
    assert train is not None
    assert store is not None
    assert (train.rate, store.rate) == (1000, 5000)
    assert state().limits_for("x") is None


def test_times_are_written_with_their_zone() -> None:
    document = state(
        images=[image(not_before="2026-12-01T02:00:00+01:00", active_from="2026-12-01T02:00:00Z")]
    )
    one = document.images[0]
    assert one.active_from is not None
    assert one.not_before is not None
    assert one.active_from - one.not_before == 3600
    assert b'"2026-12-01T01:00:00Z"' in encode_state(document)
    assert parse_state_untrusted(encode_state(document)) == document


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ({"images": [image("r.example/a")], "x": 1}, "x: Extra inputs are not permitted"),
        ({"images": [image(f"r.example/a@{DIGEST}")]}, "images.0.reference: name a tag as well"),
        ({"images": [image("site.internal/a:1")]}, "pushed at a site"),
        ({"images": [image("UPPER/x/y z")]}, "images.0.reference"),
        ({"images": [image(copies=0)]}, "images.0.copies"),
        ({"images": [image(copies="some")]}, "images.0.copies"),
        ({"images": [image(not_before="2026-12-01T02:00:00")]}, "with its zone"),
        ({"images": [image(not_before="tomorrow")]}, "write a time like"),
        ({"images": [image(not_before="9999-12-31T23:59:59-23:59")]}, "between 1970 and 2200"),
        (
            {"images": [image(not_before="2026-12-02T00:00:00Z", active_from="2026-12-01T00:00:00Z")]},
            "active_from lies before not_before",
        ),
        ({"images": [image(groups=["eu"])]}, "group 'eu' is named and not defined"),
        ({"images": [image(sites=["a/b"])]}, "images.0.sites.0"),
        ({"images": [image(platforms=["linux"])]}, "images.0.platforms.0"),
        ({"signatures": [{"pattern": "**", "action": "block"}]}, "as many different keys"),
        ({"signatures": [{"pattern": "x", "action": "accept"}]}, "names no registry"),
        ({"pull_through": {"rules": [{"pattern": "x"}]}}, "names no registry"),
        ({"limits": [{"rate": 0}]}, "limits.0.rate"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(words: dict[str, object], fault: str) -> None:
    with pytest.raises(InvalidInputError, match="desired state: ") as told:
        state_of(words)
    assert fault in str(told.value)


def test_many_faults_are_told_in_a_few_words() -> None:
    with pytest.raises(InvalidInputError) as told:
        state_of({"images": [image(copies=0) for _ in range(100)]})
    assert "more" in str(told.value)
    assert len(str(told.value)) < 2000


def test_a_document_without_end_is_refused_before_it_is_read() -> None:
    with pytest.raises(InvalidInputError, match="at most"):
        parse_state_untrusted(b" " * (DOCUMENT_LIMIT + 1))


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b"\xff", b'{"images": 1}', b'{"images":[[]]}'])
def test_what_is_no_state_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse_state_untrusted(raw)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"reference": st.sampled_from(["r.example/a:1", POS, "r.example/b/c:x"])},
            optional={
                "sites": st.lists(st.sampled_from(["a", "b-*", "*"]), max_size=3),
                "copies": st.one_of(st.just("all"), st.integers(1, 9)),
                "platforms": st.lists(st.sampled_from(["linux/amd64", "linux/arm/v7"]), max_size=2),
                "priority": st.integers(0, 100),
                "keep": st.integers(0, 10),
            },
        ),
        max_size=5,
    )
)
def test_what_is_written_is_read_again(images: list[dict[str, object]]) -> None:
    document = state_of({"images": images})
    assert parse_state_untrusted(encode_state(document)) == document


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"windows": [{"cron": "at night", "duration": 60}]}, "five fields"),
        ({"windows": [{"cron": "0 2 * * *", "duration": 60, "timezone": "Mars"}]}, "not known"),
        ({"quota": {"day": 1, "timezone": "Mars"}}, "not known"),
    ],
)
def test_limits_that_mean_nothing_are_refused_when_they_are_read(
    limits: dict[str, object], told: str
) -> None:
    with pytest.raises(InvalidInputError, match=told):
        state_of({"limits": [limits]})
