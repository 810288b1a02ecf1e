"""Who sends a request, as the audit log names them."""

from meshsat.audit.event import Actor
from meshsat.http.asgi import PEER, Scope


def operator_of(scope: Scope) -> Actor:
    """Whoever called over the node's Unix socket."""
    process = scope.get("extensions", {}).get(PEER)
    if process is None:
        return Actor("operator")
    return Actor("operator", f"uid:{process['uid']}", f"pid:{process['pid']}")


def caller_of(scope: Scope, user: str | None) -> Actor:
    """A client of the registry; `user` None: nobody in particular."""
    if PEER in scope.get("extensions", {}):
        return operator_of(scope)
    client = scope.get("client")
    return Actor("client", user or "", client[0] if client else "")
