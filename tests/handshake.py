"""A TLS handshake between two contexts, in memory: what a client makes of a server's certificate."""

import ssl
import tempfile
from pathlib import Path


def server_context(certificate: bytes, key: bytes) -> ssl.SSLContext:
    """PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "pair.pem")
        path.write_bytes(key + certificate)
        context.load_cert_chain(path)
    return context


def client_context(*authorities: bytes) -> ssl.SSLContext:
    """Trusts these (PEM) and no other, as strictly as OpenSSL can."""
    context = ssl.create_default_context(cadata=b"".join(authorities).decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> ssl.SSLObject:
    """The client's side, when both are content. Raises `ssl.SSLError`, the client's as a rule."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = list(sides)
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
        if not waiting:
            return sides[0]
    raise AssertionError("the handshake does not end")
