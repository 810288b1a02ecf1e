from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ifaddr
import pytest

from meshsat.mesh import interfaces
from meshsat.mesh.interfaces import all_addresses, join_address, reachable_addresses, split_address_untrusted


@dataclass
class Address:
    ip: str | tuple[str, int, int]


@dataclass
class Adapter:
    nice_name: str
    ips: Sequence[Address]


LOOPBACK = Adapter("lo", [Address("127.0.0.1"), Address(("::1", 0, 0))])
LAN = Adapter("test-lan", [Address("192.0.2.7"), Address("192.0.2.6"), Address(("fe80::1", 0, 2))])
LINK_LOCAL = Adapter("test-ll", [Address("169.254.3.3")])


@pytest.mark.parametrize(
    ("adapters", "expected"),
    [
        ([LOOPBACK, LAN, LINK_LOCAL], ("192.0.2.6", "192.0.2.7")),
        ([LOOPBACK, LINK_LOCAL], ("169.254.3.3",)),
        ([LOOPBACK], ("127.0.0.1",)),
        ([], ("127.0.0.1",)),
        ([LAN, LAN], ("192.0.2.6", "192.0.2.7")),
    ],
)
@pytest.mark.parametrize("listen", ["0.0.0.0", "::", ""])
def test_a_wildcard_is_reached_at_the_best_addresses(
    adapters: list[Adapter], expected: tuple[str, ...], listen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: adapters)
    assert reachable_addresses(listen) == expected


def test_a_listener_on_one_address_is_reached_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: [LAN])
    assert reachable_addresses("127.0.0.1") == ("127.0.0.1",)


def test_an_interface_that_is_down_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: [LOOPBACK, LAN])
    monkeypatch.setattr(interfaces, "_SYSFS", tmp_path)
    (tmp_path / "test-lan").mkdir()
    (tmp_path / "test-lan" / "flags").write_text("0x1002\n")
    assert reachable_addresses("0.0.0.0") == ("127.0.0.1",)
    (tmp_path / "test-lan" / "flags").write_text("0x1003\n")
    assert reachable_addresses("0.0.0.0") == ("192.0.2.6", "192.0.2.7")


def test_the_real_machine_has_an_address() -> None:
    assert reachable_addresses("0.0.0.0")


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 1), ("::1", 65535), ("node-7.example.test", 4701)])
def test_what_is_joined_is_split(host: str, port: int) -> None:
    assert split_address_untrusted(join_address(host, port)) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "x",
        ":1",
        "x:",
        "x:0",
        "x:65536",
        "x:999999",
        "x:-1",
        "x:1x",
        "::1:80",
        "x:²",
        "ä:1",
        "h" * 256 + ":1",
    ],
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert split_address_untrusted(text) is None


def test_all_addresses_are_of_both_kinds_but_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    ula = Adapter("test-ula", [Address(("fd00::7", 0, 0)), Address("192.0.2.7"), Address("nonsense")])
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: [LOOPBACK, LAN, LINK_LOCAL, ula])
    assert all_addresses() == ("169.254.3.3", "192.0.2.6", "192.0.2.7", "fd00::7")
