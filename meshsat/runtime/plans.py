"""What a plan is: the mirror that is wished for, the files as they are, and the files as they should be.

Plans are pure: they know files by what a `View` shows of them, and write nothing. A plan is made from the
files as they would be *without* meshsat, so the same wish gives the same bytes, however often it is
installed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from meshsat.errors import InvalidInputError
from meshsat.oci.reference import DOCKER_HUB, parse_registry_untrusted

DOCKER_HUB_SERVER = "https://registry-1.docker.io"
URL_LIMIT = 300
MARK = "meshsat runtime install"
"""Stands in a comment beside what we write, where the format has comments."""


class View(Protocol):
    """Files as they are, below the root that is worked on. Paths are absolute there."""

    def read(self, path: str) -> bytes | None:
        """The content; None where there is no such file. Raises `StorageError`."""

    def names(self, directory: str) -> tuple[str, ...]:
        """Names in `directory`, in order; none where there is no such directory. Raises `StorageError`."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A registry that images come from, as it stands in references."""

    host: str
    plain_http: bool = False

    @property
    def server(self) -> str:
        """Where its API is."""
        if self.host == DOCKER_HUB:
            return DOCKER_HUB_SERVER
        return f"{'http' if self.plain_http else 'https'}://{self.host}"


@dataclass(frozen=True, slots=True)
class Mirror:
    """The wish: these registries by way of this node."""

    url: str
    """`SCHEME://HOST[:PORT]` of the node's registry."""
    origins: tuple[Origin, ...] = ()
    """For runtimes that want each registry named; and, where not `every`, the only ones for all."""
    every: bool = True
    """Whatever registry a reference names, where the runtime can say so."""
    ca_file: str | None = None
    """The authority of an https node; None: the system's."""
    unnamed: str | None = None
    """The registry that the node means by a name without one."""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def plain_http(self) -> bool:
        return self.url.startswith("http:")


@dataclass(frozen=True, slots=True)
class Plan:
    files: Mapping[str, bytes]
    """Path -> content, in the order in which to write them. What is as it was may be among them."""
    notes: tuple[str, ...] = ()
    """What the operator should know: limits, what was moved, what was left alone."""
    read_at_start: frozenset[str] = frozenset()
    """Files that a running daemon does not look at again by itself."""


Planner = Callable[[View, Mirror], Plan]


def parse_node_url_untrusted(text: str) -> str:
    """`http://HOST[:PORT]` or `https://...`, as runtimes take it. Raises `InvalidInputError`."""
    advice = "write it like http://127.0.0.1:5000"
    scheme, mark, rest = text.partition("://")
    if len(text) > URL_LIMIT or scheme not in ("http", "https") or not mark:
        raise InvalidInputError(f"node {text[:URL_LIMIT]!r} is no URL of a registry; {advice}")
    try:
        host = parse_registry_untrusted(rest.removesuffix("/"))
    except InvalidInputError:
        raise InvalidInputError(
            f"node {text!r}: after {scheme}:// comes HOST or HOST:PORT alone; {advice}"
        ) from None
    return f"{scheme}://{host}"
