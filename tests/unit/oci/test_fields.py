import pytest

from meshsat.errors import InvalidInputError
from meshsat.oci import fields


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"7", "not a JSON object"),
        (b'{"a":1,"a":2}', "twice"),
        (b'{"x":{"a":1,"a":1}}', "twice"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":-Infinity}', "Infinity"),
        (b'{"a":"\xff"}', "not JSON"),
        (b'\xef\xbb\xbf{"a":1}', "not JSON"),
        ('{"a":1}'.encode("utf-16"), "not JSON"),
        (b'{"a":"\\ud800"}', "not JSON"),
        (b'{"a":' + b"9" * 100_000 + b"}", "not JSON"),
        (b'{"a":' + b"[" * 40 + b"]" * 40 + b"}", "deep"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "deep"),
        (b'{"a":[' + b"{}," * 100_000 + b"{}]}", "more than"),
    ],
)
def test_what_is_no_object_or_two_things_at_once_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^thing: .*{reason}"):
        fields.parse_object_untrusted(raw, "thing")


def test_depth_within_bounds_passes() -> None:
    lists = fields.MAX_DEPTH - 1
    parsed = fields.parse_object_untrusted(b'{"a":' + b"[" * lists + b"]" * lists + b"}", "thing")
    assert list(parsed) == ["a"]


@pytest.mark.parametrize("value", [-1, 1.0, True, "1", None, [1], 2**40 + 1])
def test_integers_are_whole_numbers_within_bounds(value: object) -> None:
    with pytest.raises(InvalidInputError, match="size"):
        fields.take_integer({"size": value}, "size", 2**40)


def test_integers_at_the_bounds() -> None:
    assert fields.take_integer({"size": 0}, "size", 5) == 0
    assert fields.take_integer({"size": 5}, "size", 5) == 5


@pytest.mark.parametrize("value", ["a", "a/", "/b", "a/b c", "a/b\n", "a/b;c=d", "ä/b", 7, "a/" + "b" * 300])
def test_media_types_are_type_and_subtype(value: object) -> None:
    with pytest.raises(InvalidInputError):
        fields.take_media_type({"mediaType": value}, "mediaType")


def test_null_and_empty_count_as_absent() -> None:
    nothing = {"a": None}
    assert fields.take_text(nothing, "a") is None
    assert fields.take_texts(nothing, "a") == ()
    assert fields.take_objects(nothing, "a") == []
    assert fields.take_annotations({"annotations": None}) == {}
    assert fields.take_media_type({"a": ""}, "a") is None


@pytest.mark.parametrize("value", [{"a": 1}, ["a"], "a", {"a": None}])
def test_annotations_are_texts(value: object) -> None:
    with pytest.raises(InvalidInputError):
        fields.take_annotations({"annotations": value})


def test_lists_are_lists() -> None:
    for taker in (fields.take_texts, fields.take_objects):
        with pytest.raises(InvalidInputError):
            taker({"a": {"b": "c"}}, "a")
    with pytest.raises(InvalidInputError):
        fields.take_texts({"a": ["x", 1]}, "a")


def test_a_text_has_a_length() -> None:
    with pytest.raises(InvalidInputError):
        fields.take_text({"a": "x" * 11}, "a", 10)
