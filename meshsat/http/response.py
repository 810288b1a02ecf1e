"""A response as it goes onto the wire: the application's words in, bytes out (RFC 9112 6).

Laws: pure. Where the response ends is told by its length, by chunks, or (HTTP/1.0) by the end of the
connection; an application that gives more or less than it said, or would write a line of its own into the
header, is at fault (`ResponseFault`).
"""

from http import HTTPStatus

from meshsat.http.asgi import Headers

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus
}
_WITHOUT_BODY = frozenset({204, 304})


class ResponseFault(Exception):  # noqa: N818 - whose fault it is, is what it says
    """The application broke the protocol."""


class Response:
    """The one response to one request. `method` and `version` are the request's."""

    __slots__ = (
        "_chunked",
        "_first",
        "_left",
        "_method",
        "_version",
        "close",
        "complete",
        "has_body",
        "started",
    )

    def __init__(self, method: str, version: str, *, close: bool) -> None:
        self._method = method
        self._version = version
        self.close = close
        """The connection ends with it."""
        self.started = self.complete = False
        """Whether any of it was given out; all of it."""
        self.has_body = method != "HEAD"
        self._first: tuple[int, Headers] | None = None
        self._left: int | None = None
        """Bytes of the body still to come, where its length was told."""
        self._chunked = False

    @property
    def ends_with_connection(self) -> bool:
        """Nothing but a reset shows that the response was cut."""
        return self.started and self.has_body and self._left is None and not self._chunked

    def begin(self, status: int, headers: Headers) -> None:
        """The header leaves with the first part of the body, in one packet."""
        if self.started or self._first is not None:
            raise ResponseFault("a second response to one request")
        self._first = status, headers

    def part(self, body: bytes, date: bytes, *, more: bool) -> list[bytes]:
        """What goes out for a part of the body; the last one is not followed by `more`."""
        before, after = self.frame(len(body), date, more=more)
        parts = [before, body, after] if self.has_body else [before]
        return [one for one in parts if one]

    def frame(self, length: int, date: bytes, *, more: bool) -> tuple[bytes, bytes]:
        """What goes out before and after `length` bytes of the body."""
        if self.complete or not (self.started or self._first is not None):
            raise ResponseFault("a body where no response is under way")
        before = after = b""
        if self._first is not None:
            status, headers = self._first
            self._first, self.started = None, True
            before = self._header(status, headers, date, None if more else length)
        if not self.has_body:
            pass
        elif self._left is not None:
            self._left -= length
            if self._left < 0 or (self._left and not more):
                raise ResponseFault(
                    f"the body is not as long as its Content-Length: {-self._left} bytes more"
                )
        elif self._chunked:
            if length:
                before, after = b"%b%x\r\n" % (before, length), b"\r\n"
            if not more:
                after += b"0\r\n\r\n"
        self.complete = not more
        return before, after

    def _header(self, status: int, headers: Headers, date: bytes, whole: int | None) -> bytes:
        """`whole`: the length of the body, where that is known without being told."""
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        length, dated = None, False
        for name, value in headers:
            lowered = name.lower()
            if lowered == b"content-length":
                length = int(value)
            elif lowered == b"date":
                dated = True
            elif lowered == b"connection":
                self.close = self.close or value.lower() == b"close"
                continue
            lines.append(b"%b: %b\r\n" % (name, value))
        if status in _WITHOUT_BODY:
            self.has_body = False
        elif length is not None:
            self._left = length
        elif whole is not None and self.has_body:
            self._left = whole
            lines.append(b"content-length: %d\r\n" % whole)
        elif self._version == "1.1":
            self._chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        else:
            self.close = True
        if not dated:
            lines.append(b"date: %b\r\n" % date)
        if self.close:
            lines.append(b"connection: close\r\n")
        header = b"".join(lines)
        if header.count(b"\n") != len(lines) or header.count(b"\r") != len(lines) or b"\0" in header:
            raise ResponseFault("a line of the header holds a line break or NUL")
        return header + b"\r\n"
