"""Reference: `REGISTRY/REPOSITORY[:TAG][@DIGEST]`, as people and runtimes write it.

The grammar and the short names are those of the `distribution` project's reference package (`busybox` is
`docker.io/library/busybox:latest`; a first component is a registry when it has a dot or a port, or is
`localhost`); repository and tag are bounded as in the distribution specification. Registries are lower-cased,
since host names are; an upper-case repository is refused. What is parsed prints as text that parses to the
same value.
"""

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Self

from meshsat.errors import InvalidInputError
from meshsat.oci.digest import Digest

DOCKER_HUB = "docker.io"
SITE = "site.internal"
"""The registry that site content is named under: what was pushed to a node. No upstream has it (`.internal`
is never a public name: ICANN, 2024)."""
DEFAULT_TAG = "latest"
NAME_LIMIT = 255
"""Characters of a repository, and of a registry."""

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST_LABEL = r"(?:[a-z0-9]|[a-z0-9][a-z0-9-]*[a-z0-9])"
_REGISTRY = re.compile(rf"(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[([0-9a-f:.]+)\])(?::([0-9]{{1,5}}))?")
_IDENTIFIER = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    registry: str
    """`HOST[:PORT]`; Docker Hub is `docker.io` here, whatever its servers are called."""
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse_untrusted(cls, text: object) -> Self:
        """Without tag and digest, the tag is `latest`. Raises `InvalidInputError`."""
        if not isinstance(text, str) or not text or len(text) > 2 * NAME_LIMIT + 512:
            raise InvalidInputError("reference: empty or too long; write REGISTRY/REPOSITORY:TAG")
        if _IDENTIFIER.fullmatch(text):
            raise InvalidInputError(f"reference {text!r}: 64 hex digits are an image id, not a name")
        try:
            rest, at, digest_text = text.partition("@")
            digest = Digest.parse_untrusted(digest_text) if at else None
            head, slash, last = rest.rpartition("/")
            last, colon, tag_text = last.partition(":")
            tag = parse_tag_untrusted(tag_text) if colon else None
            registry, repository = _split_registry(head + slash + last)
            if tag is None and digest is None:
                tag = DEFAULT_TAG
            return cls(registry, parse_repository_untrusted(repository), tag, digest)
        except InvalidInputError as fault:
            raise InvalidInputError(f"reference {text!r}: {fault}") from None

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"

    def with_digest(self, digest: Digest) -> Self:
        return replace(self, digest=digest)

    def with_tag(self, tag: str) -> Self:
        return replace(self, tag=tag)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.name}{tag}{digest}"


def parse_repository_untrusted(text: object) -> str:
    """The NAME of the distribution specification's routes. Raises `InvalidInputError`."""
    if not isinstance(text, str) or len(text) > NAME_LIMIT or not _REPOSITORY.fullmatch(text):
        raise InvalidInputError(
            f"repository {str(text)[:NAME_LIMIT]!r}: lower-case letters and digits, with . _ - or / between "
            f"them, at most {NAME_LIMIT} characters"
        )
    return text


def parse_tag_untrusted(text: object) -> str:
    """Raises `InvalidInputError`."""
    if not isinstance(text, str) or not _TAG.fullmatch(text):
        raise InvalidInputError(
            f"tag {str(text)[:NAME_LIMIT]!r}: 1 to 128 letters, digits, _ . - beginning with no . or -"
        )
    return text


def parse_registry_untrusted(text: object) -> str:
    """`HOST[:PORT]`, `[IPV6][:PORT]`; gives it lower-cased. Raises `InvalidInputError`."""
    registry = text.lower() if isinstance(text, str) and len(text) <= NAME_LIMIT else ""
    match = _REGISTRY.fullmatch(registry)
    if match is None or (match[2] is not None and not 1 <= int(match[2]) <= 65535):
        raise InvalidInputError(f"registry {str(text)[:NAME_LIMIT]!r}: not HOST or HOST:PORT")
    if match[1] is not None:
        try:
            ipaddress.IPv6Address(match[1])
        except ValueError:
            raise InvalidInputError(f"registry {text!r}: not an IPv6 address in brackets") from None
    return registry


def looks_like_registry(component: str) -> bool:
    """True for a first path component that names a host, not a part of a repository on Docker Hub."""
    return "." in component or ":" in component or component.lower() == "localhost"


def registry_as_component(registry: str) -> str | None:
    """A registry as the first component of a repository's path, where no colon may stand: `HOST_PORT` for
    `HOST:PORT`. None: it cannot be told from a part of a name there (`cache:5000`, IPv6)."""
    host, colon, port = registry.rpartition(":")
    component = f"{host}_{port}" if colon else registry
    fits = re.fullmatch(_COMPONENT, component) and looks_like_registry(host if colon else registry)
    return component if fits else None


def registry_of_component_untrusted(component: str) -> str:
    """The registry that `registry_as_component` made `component` of. Raises `InvalidInputError`."""
    host, underscore, port = component.rpartition("_")
    with_port = underscore and looks_like_registry(host) and re.fullmatch("[0-9]{1,5}", port)
    return parse_registry_untrusted(f"{host}:{port}" if with_port else component)


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and looks_like_registry(first):
        registry, repository = parse_registry_untrusted(first), rest
    else:
        registry, repository = DOCKER_HUB, name
    if registry == f"index.{DOCKER_HUB}":
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository
