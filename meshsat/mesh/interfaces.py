"""Under which addresses this machine can be reached on its networks.

All IPv4 addresses of the interfaces that are up. Loopback counts only where there is no other, or where it
is what a listener is bound to; link-local (RFC 3927) only where there is no better.
"""

from ipaddress import AddressValueError, IPv4Address, ip_address
from pathlib import Path

import ifaddr

_IFF_UP = 0x1  # linux/if.h
_SYSFS = Path("/sys/class/net")


def reachable_addresses(listen: str) -> tuple[str, ...]:
    """Addresses, without ports, for a listener bound to `listen`; sorted, so that two looks compare equal.

    A listener on a wildcard is reached at every address of the machine, any other at its own.
    """
    if listen not in ("", "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return (listen,)
    found = sorted(set(_addresses_up()))
    return (
        tuple(str(address) for address in found if not address.is_loopback and not address.is_link_local)
        or tuple(str(address) for address in found if not address.is_loopback)
        or tuple(str(address) for address in found)
        or ("127.0.0.1",)
    )


def all_addresses() -> tuple[str, ...]:
    """Every address of the interfaces that are up, IPv4 and IPv6, loopback left out; sorted."""
    found: set[str] = set()
    for adapter in ifaddr.get_adapters():
        if _is_up(adapter.nice_name):
            for address in adapter.ips:
                text = address.ip if isinstance(address.ip, str) else address.ip[0]
                try:
                    parsed = ip_address(text)
                except ValueError:
                    continue
                if not parsed.is_loopback and not (parsed.version == 6 and parsed.is_link_local):
                    found.add(str(parsed))
    return tuple(sorted(found))


def join_address(host: str, port: int) -> str:
    """`host:port`, or `[v6]:port`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address_untrusted(text: str) -> tuple[str, int] | None:
    """What `join_address` made; None where the text is no such thing."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    if (
        not colon
        or not 0 < len(host) <= 255
        or not host.isascii()
        or not port.isascii()
        or not port.isdigit()
    ):
        return None
    if len(port) > 5 or not 0 < int(port) <= 65535:
        return None
    return host, int(port)


def _addresses_up() -> list[IPv4Address]:
    found: list[IPv4Address] = []
    for adapter in ifaddr.get_adapters():
        if not _is_up(adapter.nice_name):
            continue
        for address in adapter.ips:
            try:
                found.append(IPv4Address(address.ip))
            except AddressValueError:
                continue  # IPv6: a tuple
    return found


def _is_up(interface: str) -> bool:
    name, _, _ = interface.partition(":")  # an alias has its interface's flags
    try:
        flags = int((_SYSFS / name / "flags").read_text(encoding="ascii"), 16)
    except (OSError, ValueError):
        return True
    return bool(flags & _IFF_UP)
