import pytest

from meshsat.errors import InvalidInputError
from meshsat.web.arguments import parse_arguments_untrusted

KNOWN = {"name": str, "count": int, "since": (int, float), "really": bool}


def test_arguments_are_known_fields_of_their_types() -> None:
    assert parse_arguments_untrusted(b"", KNOWN) == {}
    body = b'{"name": "a", "count": 1, "since": 1.5, "really": true}'
    assert parse_arguments_untrusted(body, KNOWN) == {"name": "a", "count": 1, "since": 1.5, "really": True}


@pytest.mark.parametrize(
    "body", [b"[]", b"{", b'{"other": 1}', b'{"count": true}', b'{"count": "1"}', b'{"really": 1}', b"\xff"]
)
def test_all_else_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse_arguments_untrusted(body, KNOWN)


def test_a_secret_in_a_body_that_cannot_be_read_is_not_told() -> None:
    for body in (
        b'{"name": "hunter2"',
        b'{"name": "hunter2", "name": "x"}',
        b'{"count": "hunter2"}',
        b"hunter2",
    ):
        with pytest.raises(InvalidInputError) as refused:
            parse_arguments_untrusted(body, KNOWN)
        assert "hunter2" not in str(refused.value)
