import pytest
from pydantic import ValidationError

from meshsat.section import Section, Zone


class Clocked(Section):
    timezone: Zone = "UTC"


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin"])
def test_a_zone_that_is_known_is_taken_as_it_stands(name: str) -> None:
    assert Clocked.model_validate({"timezone": name}).timezone == name


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../../etc/passwd", "Europe"])
def test_one_that_is_not_is_named(name: str) -> None:
    with pytest.raises(ValidationError, match="timezone"):
        Clocked.model_validate({"timezone": name})


def test_words_that_no_section_has_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"zone\n.*not permitted"):
        Clocked.model_validate({"zone": "UTC"})
