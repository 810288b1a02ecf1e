"""What a client of a registry does, as far as more than one test does it.

Law: nothing is known of the registry but its address; Locations are followed as they were given.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from tests.conformance.wire import Answer, Body, Connection, Headers
from tests.images import Image, digest_of

OCTETS = ("Content-Type", "application/octet-stream")


def located(answer: Answer) -> str:
    """The path and query that an answer's Location means, be it absolute or relative."""
    place = urlsplit(urljoin(f"http://registry{answer.target}", answer["location"]))
    return place.path + (f"?{place.query}" if place.query else "")


def with_query(target: str, **options: str) -> str:
    """`target` with options added to what query it has."""
    told = "&".join(f"{name}={quote(value, safe='')}" for name, value in options.items())
    return f"{target}{'&' if '?' in target else '?'}{told}"


@dataclass(frozen=True, slots=True)
class Registry:
    address: str

    def connect(self) -> Connection:
        return Connection(self.address)

    def ask(self, method: str, target: str, headers: Headers = (), body: Body = None) -> Answer:
        """One request on a connection of its own."""
        with self.connect() as connection:
            return connection.ask(method, target, headers, body)

    # --- blobs ------------------------------------------------------------------------------------------------

    def start(self, repository: str, query: str = "") -> Answer:
        """POST: an upload begins. `query`: with its question mark."""
        answer = self.ask("POST", f"/v2/{repository}/blobs/uploads/{query}", body=b"")
        assert answer.status == 202, answer
        return answer

    def patch(self, place: str, data: bytes, start: int | None = None) -> Answer:
        """One chunk; `start` None: without a Content-Range, as a stream."""
        told = [] if start is None else [("Content-Range", f"{start}-{start + len(data) - 1}")]
        return self.ask("PATCH", place, [OCTETS, *told], data)

    def close(self, place: str, digest: str, data: bytes = b"", start: int | None = None) -> Answer:
        """PUT: the upload ends, with its last chunk or none."""
        told = [] if start is None else [("Content-Range", f"{start}-{start + len(data) - 1}")]
        return self.ask("PUT", with_query(place, digest=digest), [OCTETS, *told], data)

    def push_blob(self, repository: str, data: bytes, algorithm: str = "sha256") -> str:
        digest = digest_of(data, algorithm)
        answer = self.close(located(self.start(repository)), digest, data)
        assert answer.status == 201, answer
        return digest

    def blob(self, repository: str, digest: str, headers: Headers = (), method: str = "GET") -> Answer:
        return self.ask(method, f"/v2/{repository}/blobs/{digest}", headers)

    # --- manifests --------------------------------------------------------------------------------------------

    def put(self, repository: str, reference: str, raw: bytes, media_type: str) -> Answer:
        target = f"/v2/{repository}/manifests/{reference}"
        return self.ask("PUT", target, [("Content-Type", media_type)], raw)

    def manifest(self, repository: str, reference: str, headers: Headers = (), method: str = "GET") -> Answer:
        """With an Accept of everything that there is, unless `headers` has one: strict registries want it."""
        named = {name.lower() for name, _ in headers}
        accept = [] if "accept" in named else [("Accept", one) for one in EVERYTHING]
        return self.ask(method, f"/v2/{repository}/manifests/{reference}", [*accept, *headers])

    def delete(self, repository: str, reference: str) -> Answer:
        return self.ask("DELETE", f"/v2/{repository}/manifests/{reference}")

    def push(self, repository: str, image: Image, *tags: str) -> None:
        """All of it, in order; the root under `tags`, or under its digest."""
        for data in image.blobs.values():
            self.push_blob(repository, data)
        for digest, raw in image.manifests.items():
            names = tags if tags and digest == image.root else (digest,)
            for name in names:
                answer = self.put(repository, name, raw, image.media_types[digest])
                assert answer.status == 201, answer

    # --- lists ------------------------------------------------------------------------------------------------

    def tags(self, repository: str) -> list[str]:
        answer = self.ask("GET", f"/v2/{repository}/tags/list")
        assert answer.status == 200, answer
        return list(answer.json["tags"] or ())

    def pages(self, target: str) -> Iterator[Answer]:
        """The answer and all that its `Link: <...>; rel="next"` leads to."""
        while True:
            answer = self.ask("GET", target)
            assert answer.status == 200, answer
            yield answer
            link = answer.get("link")
            if link is None:
                return
            target = next_page(answer)


def next_page(answer: Answer) -> str:
    """RFC 5988, relation `next`: a token, or quoted."""
    told = re.fullmatch(r'<([^>]*)>; *rel=("next"|next)', answer["link"])
    assert told, answer["link"]
    found = urlsplit(urljoin(f"http://registry{answer.target}", told[1]))
    return f"{found.path}?{found.query}"


EVERYTHING = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "*/*",
)


def sha512(data: bytes) -> str:
    return f"sha512:{hashlib.sha512(data).hexdigest()}"
