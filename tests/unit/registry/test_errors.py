import json

from meshsat.registry.errors import Code, RefusedError


def test_the_body_is_that_of_the_specification() -> None:
    refused = RefusedError(404, Code.BLOB_UNKNOWN, 'no "x" here')
    assert json.loads(refused.body()) == {"errors": [{"code": "BLOB_UNKNOWN", "message": 'no "x" here'}]}
    assert str(refused) == 'no "x" here'


def test_codes_are_of_the_form_that_the_specification_asks_for() -> None:
    """Upper-case letters and underscores only."""
    assert all(code.replace("_", "").isalpha() and code.isupper() and code == code.name for code in Code)
