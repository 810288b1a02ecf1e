"""Requests to a registry that nobody sane sends, made from a `random.Random`: hypothesis gives one that shrinks,
a long run gives a seeded one.

Half-right on purpose: what is all noise is refused by the first check that it meets.
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.images import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    EMPTY,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    descriptor,
    digest_of,
)

BLOBS = (b"", b"{}", b"blob", bytes(range(256)) * 40)
"""Pushed to `REPOSITORIES[0]` before, so that manifests of them are valid."""
REPOSITORIES = ("fuzz/app", "fuzz/other", "fuzz/blobs/uploads", "a")
METHODS = ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE")
ODD_METHODS = ("OPTIONS", "TRACE", "CONNECT", "get", "PRI", "M" * 300, "G\x00T", "")
ESCAPES = (
    "..", ".", "%2e%2e", "%2E%2e%2f", "..%2f..%2f..%2fetc%2fpasswd", "%00", "%0d%0aX-Own:1", "~", "*", "\\..\\", "%5c..",
    "%c0%ae%c0%ae", "caf%C3%A9", "%F0%9F%9A%80", "\xe9", "a" * 256, "a/" * 128, "con", "CON", "$(id)", "%25%32%65", "%",
    "state.sqlite", "oci-layout", "index.json", "lock", "_catalog", "blobs", "uploads", "manifests", "tags", "list", "v2",
    "sha256", "sha256:", "sha512:..", "site.internal", "reg.example.test:5000", "[::1]:80", "",
)  # fmt: skip
LEAVES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, 10**40, 0.5, -0.0, "", "a", "é\U0001f680", "\ud800", "\x00",
    "../../etc/passwd", "sha256:" + "a" * 64, "sha256:" + "A" * 64, "sha512:" + "b" * 128, "sha256:" + "a" * 63,
    "x" * 5000, [], {}, [[]], [None], {"": ""}, {"a": {"b": {"c": []}}}, EMPTY, OCI_INDEX, OCI_MANIFEST,
)  # fmt: skip
TYPES = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST, "application/vnd.example+json", "text/plain", "", "a",
         f"{OCI_MANIFEST}; charset=utf-8", "x/" + "y" * 3000, "\xe9/\x01", "application/json")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    head: bytes
    body: bytes
    method: str
    whole: bool
    """Whether it is framed as it says; else the server may wait for the rest of it."""

    @property
    def raw(self) -> bytes:
        return self.head + self.body


PARTS = ("method", "version", "path", "query", "headers", "framing", "body")


def make_request(chance: Random, places: Sequence[str]) -> Request:
    """`places`: paths of uploads that are open. As a rule one or two of its parts are odd, and the rest is fine."""
    odd = set(PARTS if chance.random() < 0.1 else chance.sample(PARTS, chance.choice((0, 1, 1, 2, 3))))
    method, path, pairs = _plain(chance, places)
    if "method" in odd:
        method = chance.choice((*METHODS, chance.choice(ODD_METHODS)))
    if "path" in odd:
        path = _odd_path(chance)
    if "query" in odd:
        pairs = [*pairs, *(_pair(chance) for _ in range(chance.choice((1, 1, 2, 20))))]
    body = (
        make_manifest(chance, spoiled="body" in odd)
        if "/manifests/" in path
        else _body(chance, "body" in odd)
    )
    version = chance.choice(("1.0", "2.0", "0.9", "1", "1.1.1")) if "version" in odd else "1.1"
    lines = [f"{method} {path}{'?' if pairs else ''}{'&'.join(pairs)} HTTP/{version}", "Host: x"]
    if "/manifests/" in path and "body" not in odd:
        lines.append(f"Content-Type: {OCI_INDEX if b'manifests' in body else OCI_MANIFEST}")
    if "/blobs/sha" in path and chance.random() < 0.2:
        lines.append(f"Range: bytes={chance.choice(('0-', '1-2', '-3', '5-9', '99999-'))}")
    if "headers" in odd:
        lines += [_header(chance) for _ in range(chance.choice((1, 1, 2, 3, 8)))]
        if chance.random() < 0.05:
            lines.remove("Host: x")
    whole = "framing" not in odd
    if whole:
        lines += [f"Content-Length: {len(body)}"] if method in {"PUT", "POST", "PATCH"} else []
        body = body if method in {"PUT", "POST", "PATCH"} else b""
    elif chance.random() < 0.5:
        body = _chunked(chance, body)
        lines.append("Transfer-Encoding: chunked")
        lines += [f"Content-Length: {len(body)}"] if chance.random() < 0.1 else []
    else:
        lines.append(
            f"Content-Length: {chance.choice((-1, len(body) + 1, len(body), 10**20, 'x', '', '0x5', '1, 2'))}"
        )
    head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
    return Request(head, body, method, whole)


def _plain(chance: Random, places: Sequence[str]) -> tuple[str, str, list[str]]:
    """What a client might send: method, path and query."""
    name = chance.choice((*REPOSITORIES, REPOSITORIES[0], REPOSITORIES[0]))
    digest = digest_of(chance.choice(BLOBS), chance.choice(("sha256", "sha256", "sha512")))
    tag = chance.choice(("1", "2", "latest"))
    read = chance.choice(("GET", "GET", "HEAD"))
    upload = chance.choice(places) if places else f"/v2/{name}/blobs/uploads/{'0' * 32}"
    uploads = f"/v2/{name}/blobs/uploads/"
    return chance.choice(
        (
            (read, f"/v2/{name}/manifests/{tag}", []),
            (read, f"/v2/{name}/blobs/{digest}", []),
            (read, f"/v2/{name}/blobs/{digest}", []),
            (read, f"/v2/{name}/tags/list", []),
            (read, f"/v2/{name}/referrers/{digest}", []),
            (read, "/v2/_catalog", ["n=3"]),
            (read, "/v2/", []),
            ("PUT", f"/v2/{name}/manifests/{tag}", []),
            ("PUT", f"/v2/{name}/manifests/{tag}", []),
            ("DELETE", f"/v2/{name}/manifests/{chance.choice((tag, digest))}", []),
            ("DELETE", f"/v2/{REPOSITORIES[1]}/blobs/{digest}", []),
            ("POST", uploads, []),
            ("POST", uploads, [f"mount={digest}", f"from={REPOSITORIES[0]}"]),
            ("POST", uploads, [f"digest={digest}"]),
            ("PATCH", upload, []),
            ("PATCH", upload, []),
            ("PUT", upload, [f"digest={digest}"]),
            ("GET", upload, []),
            ("DELETE", upload, []),
        )
    )


def _odd_path(chance: Random) -> str:
    if chance.random() < 0.3:
        return "/" + "/".join(_segment(chance) for _ in range(chance.randrange(7)))
    name = f"{_segment(chance)}/{_segment(chance)}" if chance.random() < 0.5 else chance.choice(REPOSITORIES)
    end = chance.choice(("manifests", "blobs", "blobs/uploads", "tags", "referrers"))
    path = f"/v2/{name}/{end}/{_segment(chance)}"
    return (
        path
        if chance.random() < 0.9
        else chance.choice(("*", "http://x/v2/", "//v2/", "/v2", "", path + "/", " /v2/"))
    )


def _segment(chance: Random) -> str:
    return chance.choice((chance.choice(ESCAPES), chance.choice(REPOSITORIES), _digest(chance)))


def _digest(chance: Random) -> str:
    data = chance.choice(BLOBS)
    good = digest_of(data, chance.choice(("sha256", "sha512")))
    return (
        good
        if chance.random() < 0.8
        else chance.choice((good[:-1], good.upper(), "md5:aa", good + "0", f"sha256:{'/' * 5}"))
    )


def _pair(chance: Random) -> str:
    key = chance.choice(
        ("digest", "mount", "from", "ns", "n", "last", "tag", "artifactType", "digest-algorithm", "x", "")
    )
    value = {
        "digest": _digest(chance),
        "mount": _digest(chance),
        "from": chance.choice(REPOSITORIES),
        "n": str(chance.choice((0, 1, -1, 10**30, "a", ""))),
        "tag": chance.choice(("1", "2", "-", "a" * 129)),
        "digest-algorithm": chance.choice(("sha256", "sha512", "md5", "")),
    }.get(key, "")
    return f"{key}={value if chance.random() < 0.8 else chance.choice(ESCAPES)}"


def _header(chance: Random) -> str:
    number = chance.choice((0, 1, 4, 10, 10239, 10240, 2**63, 10**30))
    return chance.choice(
        (
            f"Content-Type: {chance.choice(TYPES)}",
            f"Content-Type: {chance.choice(TYPES)}",
            f"Content-Range: {number}-{chance.choice((number, number + 3, 0, ''))}",
            f"Content-Range: bytes {number}-{number + 1}/*",
            f"Range: bytes={number}-{chance.choice((number, '', number + 9))}",
            "Range: bytes=" + ",".join(f"{one}-{one}" for one in range(chance.choice((2, 50, 2000)))),
            f"Range: {chance.choice(ESCAPES)}",
            f'If-None-Match: "{_digest(chance)}"',
            "If-None-Match: *",
            f'If-Range: "{_digest(chance)}"',
            f"Accept: {chance.choice(TYPES)}",
            "Expect: 100-continue",
            "Expect: something else",
            "Connection: close",
            "Connection: upgrade\r\nUpgrade: h2c",
            "Transfer-Encoding: gzip",
            "Content-Encoding: gzip",
            "Authorization: Basic " + "A" * 100,
            "X-Filler: " + "x" * chance.choice((10, 9000, 40_000)),
            "Cookie: \x01\x02",
            ": empty",
            " folded",
        )
    )


def _chunked(chance: Random, body: bytes) -> bytes:
    """Now and then not quite."""
    made = b""
    while body:
        size = chance.choice((1, 7, len(body)))
        part, body = body[:size], body[size:]
        told = b"%x" % (len(part) if chance.random() < 0.97 else chance.choice((0, 2**40, 10**30)))
        made += (
            (told if chance.random() < 0.97 else b"-1")
            + chance.choice((b"", b"", b";ext=1"))
            + b"\r\n"
            + part
            + b"\r\n"
        )
    return made + chance.choice(
        (b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"", b"zz\r\n")
    )


def _body(chance: Random, odd: bool) -> bytes:
    data = chance.choice(BLOBS)
    return chance.choice((data[:3], data + b"x", b"\x00" * 70_000, make_manifest(chance))) if odd else data


def make_manifest(chance: Random, *, spoiled: bool = True) -> bytes:
    """A valid one of `BLOBS`; `spoiled`: as a rule with something wrong with it."""
    config = descriptor(EMPTY, BLOBS[1])
    layers = [descriptor(OCI_LAYER, chance.choice(BLOBS)) for _ in range(chance.randrange(3))]
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config,
        "layers": layers,
    }
    if chance.random() < 0.3:
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    if chance.random() < 0.3:
        document["subject"] = descriptor(OCI_MANIFEST, chance.choice(BLOBS))
    if chance.random() < 0.3:
        document["annotations"] = {"a": _leaf(chance) if spoiled else "b", "b": "c"}
    if chance.random() < 0.2:
        document["artifactType"] = _leaf(chance) if spoiled else EMPTY
    if not spoiled:
        return json.dumps(document).encode("utf-8", "surrogatepass")
    for _ in range(chance.choice((0, 0, 1, 1, 2, 5))):
        _spoil(chance, document)
    raw = json.dumps(document).encode("utf-8", "surrogatepass")
    how = chance.random()
    if how < 0.05:
        return raw[: chance.randrange(len(raw) + 1)]
    if how < 0.1:
        at = chance.randrange(len(raw))
        return raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
    if how < 0.12:
        return chance.choice(
            (b"[" * 20_000, b'{"a":' * 20_000, b"1" * 10_000, b"NaN", b"\xef\xbb\xbf" + raw, b"Infinity", b"")
        )
    if how < 0.15:
        return raw.replace(b'"size": ', b'"size": 1e9, "size": ').replace(b"2,", b"2.0,")
    return raw


def _leaf(chance: Random) -> Any:
    return deepcopy(chance.choice(LEAVES))


def _spoil(chance: Random, document: dict[str, Any]) -> None:
    """Change one value somewhere in it, drop it, or add one."""
    node: Any = document
    while True:
        key = chance.choice([*node]) if isinstance(node, dict) else chance.randrange(len(node))
        below = node[key]
        if not isinstance(below, dict | list) or not below or chance.random() < 0.3:
            break
        node = below
    if isinstance(node, dict) and chance.random() < 0.2 and len(node) > 1:
        del node[key]
    elif isinstance(node, dict) and chance.random() < 0.2:
        node[chance.choice(("urls", "data", "platform", "artifactType", "annotations", "é"))] = chance.choice(
            LEAVES
        )
    else:
        node[key] = _leaf(chance)
