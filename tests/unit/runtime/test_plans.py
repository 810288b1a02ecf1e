import pytest

from meshsat.errors import InvalidInputError
from meshsat.runtime.plans import Mirror, Origin, parse_node_url_untrusted


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://Node.LAN/", "https://node.lan"),
        ("http://[::1]:5000", "http://[::1]:5000"),
    ],
)
def test_a_nodes_url(text: str, url: str) -> None:
    assert parse_node_url_untrusted(text) == url


@pytest.mark.parametrize(
    "text",
    ["", "127.0.0.1:5000", "ftp://a", "http://", "http://a/b", 'http://a"b', "http://u@a", "http://a?" * 99],
)
def test_what_is_no_url_of_a_node(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"http://127\.0\.0\.1:5000"):
        parse_node_url_untrusted(text)


def test_servers_and_hosts() -> None:
    assert Origin("docker.io").server == "https://registry-1.docker.io"
    assert Origin("quay.io").server == "https://quay.io"
    assert Origin("lab:5000", plain_http=True).server == "http://lab:5000"
    assert (Mirror("https://n:1").host, Mirror("https://n:1").plain_http) == ("n:1", False)
    assert Mirror("http://n:1").plain_http
