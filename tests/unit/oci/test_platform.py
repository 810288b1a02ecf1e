import pytest

from meshsat.errors import InvalidInputError
from meshsat.oci.platform import Platform


def test_all_fields_and_the_unknown_ones() -> None:
    platform = Platform.parse_untrusted(
        {
            "os": "windows",
            "architecture": "arm64",
            "variant": "v8",
            "os.version": "10.0.1",
            "os.features": ["win32k"],
            "features": ["sse4"],
        }
    )
    assert platform == Platform("windows", "arm64", "v8", "10.0.1", ("win32k",), {"features": ["sse4"]})
    assert str(platform) == "windows/arm64/v8"
    assert len({platform, platform}) == 1


def test_older_writers_leave_fields_out() -> None:
    assert str(Platform.parse_untrusted({"os": "linux"})) == "linux"


@pytest.mark.parametrize("value", [None, "linux/amd64", [], {"os": 7}, {"os.features": "x"}])
def test_the_rest_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError):
        Platform.parse_untrusted(value)
