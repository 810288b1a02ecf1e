"""The site of network namespaces itself, with stand-ins for nodes: what it promises, it keeps."""

import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sim import namespaces
from sim.images import random_image
from sim.namespaces import CommandError, Run
from sim.network import UPSTREAM_ADDRESS, Host, Network, Plan
from sim.upstream import Upstream
from tests.tools import require_tool

pytestmark = [pytest.mark.netns, pytest.mark.slow]

MBIT = 1_000_000 / 8
SEND = """
import socket, sys
with socket.create_server((sys.argv[1], 9000)) as server:
    print("up", flush=True)
    peer, _ = server.accept()
    with peer:
        peer.sendall(bytes(int(sys.argv[2])))
"""
RECEIVE = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 9000), timeout=20) as peer:
    start, count = time.monotonic(), 0
    while data := peer.recv(1 << 20):
        count += len(data)
    print(count / (time.monotonic() - start))
"""
KNOCK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), timeout=1)
except ConnectionRefusedError:
    pass  # somebody answered
"""


def eventually(true: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def flow(sender: Host, receiver: Host, size: int) -> float:
    """Bytes per second of payload of one TCP connection."""
    command = sender.namespace.inside(sys.executable, "-c", SEND, sender.address, str(size))
    with subprocess.Popen(command, stdout=subprocess.PIPE) as serving:
        assert serving.stdout is not None
        assert serving.stdout.readline() == b"up\n"
        return float(receiver.namespace.run(sys.executable, "-c", RECEIVE, sender.address))


def test_one_flow_gets_the_rate_of_the_lan_and_the_counters_say_so(owner: Run) -> None:
    network = Network(owner, Plan(hosts=2, uplinked=0, lan_mbit=100))
    sender, receiver = network.hosts
    size = int(2 * 100 * MBIT)
    got = flow(sender, receiver, size)
    assert 0.94 * 100 * MBIT < got < 1.03 * 100 * MBIT
    for counted in (sender.lan.sent(), receiver.lan.received()):
        assert size < counted.bytes < 1.03 * size
        assert 1.03 * size < counted.wire_bytes < 1.07 * size
    assert sender.lan.received().bytes < 0.03 * size


def test_both_directions_of_a_link_have_the_rate_for_themselves(owner: Run) -> None:
    network = Network(owner, Plan(hosts=2, uplinked=0, lan_mbit=50))
    one, two = network.hosts
    rates: list[float] = []
    size = int(2 * 50 * MBIT)
    flows = [
        threading.Thread(target=lambda a=a, b=b: rates.append(flow(a, b, size)))
        for a, b in ((one, two), (two, one))
    ]
    for each in flows:
        each.start()
    for each in flows:
        each.join(30)
    assert len(rates) == 2
    assert min(rates) > 0.7 * 50 * MBIT  # were it shared, 0.5 at best


def test_an_uplink_is_the_only_way_to_the_upstream_and_every_byte_over_it_is_counted(owner: Run) -> None:
    require_tool("docker-registry", "curl")
    network = Network(owner, Plan(hosts=3, uplinked=2, uplink_mbit=40, lan_mbit=200))
    upstream = Upstream(network.wan, owner.directory)
    image = random_image(owner.directory / "image", 5_000_000)
    reference = upstream.push(image, "test/random", "1")
    assert reference == f"{UPSTREAM_ADDRESS}:5000/test/random:1"
    assert network.wan_bytes() < 1000  # neighbours greet each other

    url = f"http://{upstream.host}/v2/test/random/blobs/{image.blobs[0]}"
    asked = ("curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}", url)
    assert network.hosts[0].namespace.run(*asked) == "5000000"
    assert 5_000_000 < network.wan_bytes() < 1.02 * 5_000_000
    assert network.hosts[1].namespace.run(*asked) == "5000000"
    assert 10_000_000 < network.wan_bytes() < 1.02 * 10_000_000
    assert network.wan_wire_bytes() > 1.03 * 10_000_000
    assert 0 < network.wan_bytes_out() < 0.05 * 10_000_000
    assert upstream.requests().count(f"GET /v2/test/random/blobs/{image.blobs[0]}") == 2

    with pytest.raises(CommandError, match="exit 7"):  # curl: no connection
        network.hosts[2].namespace.run(*asked)
    upstream.stop()
    with pytest.raises(CommandError, match="exit 7"):
        network.hosts[0].namespace.run(*asked)


def test_a_link_that_is_cut_carries_nothing_and_a_mended_one_does(owner: Run) -> None:
    network = Network(owner, Plan(hosts=2, uplinked=1))
    here, there = network.hosts
    knock = (sys.executable, "-c", KNOCK)

    def reaches(address: str) -> bool:
        asked = here.namespace.inside(*knock, address)
        return subprocess.run(asked, capture_output=True, timeout=10, check=False).returncode == 0

    for link, address in (
        (here.lan, there.address),
        (there.lan, there.address),
        (here.uplink, UPSTREAM_ADDRESS),
    ):
        assert link is not None
        assert reaches(address)
        link.down()
        assert not reaches(address)
        link.up()
        eventually(lambda address=address: reaches(address), "the mended link carries")  # type: ignore[misc]


def test_the_rate_can_change_under_way(owner: Run) -> None:
    network = Network(owner, Plan(hosts=2, uplinked=0, lan_mbit=100))
    sender, receiver = network.hosts
    sender.lan.shape(20)
    assert flow(sender, receiver, int(20 * MBIT)) < 1.1 * 20 * MBIT


def test_multicast_reaches_every_host(owner: Run) -> None:
    """What mDNS needs: 224.0.0.251 from a dark host to a dark host."""
    network = Network(owner, Plan(hosts=3, uplinked=1))
    listen = """
        import socket, struct, sys
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ears:
            ears.settimeout(15)
            ears.bind(("", 5353))
            group = socket.inet_aton("224.0.0.251") + socket.inet_aton(sys.argv[1])
            ears.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            print("up", flush=True)
            print(ears.recv(100).decode())
    """
    shout = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'here', ('224.0.0.251', 5353))"
    ears = [
        subprocess.Popen(
            host.namespace.inside(sys.executable, "-c", textwrap.dedent(listen), host.address),
            stdout=subprocess.PIPE,
        )
        for host in network.hosts[:2]
    ]
    for each in ears:
        assert each.stdout is not None
        assert each.stdout.readline() == b"up\n"
    network.hosts[2].namespace.run(sys.executable, "-c", shout)
    for each in ears:
        assert each.communicate(timeout=20)[0] == b"here\n"


def test_two_sites_at_once_do_not_touch_each_other(namespaces_work: None) -> None:
    with Run() as first, Run() as second:
        one = Network(first, Plan(hosts=2))
        two = Network(second, Plan(hosts=2))
        flow(two.hosts[0], two.hosts[1], 100_000)
        assert one.hosts[0].lan.sent().bytes < 20_000
        assert two.hosts[0].lan.sent().bytes > 100_000
        second.close()
        flow(one.hosts[0], one.hosts[1], 100_000)


def test_leaving_removes_processes_namespaces_and_files(namespaces_work: None) -> None:
    run = Run()
    network = Network(run, Plan(hosts=2))
    sleeper = network.hosts[1].namespace.start("sleep", "1000")
    (run.directory / "file").write_text("x")
    with pytest.raises(RuntimeError, match="boom"), run:
        raise RuntimeError("boom")
    assert sleeper.wait(5) == -signal.SIGKILL
    assert namespaces.namespaces(run.prefix) == []
    assert not run.directory.exists()


ORPHAN = """
import os, signal
from sim.namespaces import Run
from sim.network import Network, Plan
run = Run()
sleeper = Network(run, Plan(hosts=1)).hosts[0].namespace.start("sleep", "1000")
if {kill_janitor}:
    os.kill(run._janitor.pid, signal.SIGKILL)
print(run.prefix, run.directory, sleeper.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kill_janitor", [False, True])
def test_a_killed_owner_leaves_nothing(namespaces_work: None, kill_janitor: bool) -> None:
    """The janitor sees to it at once; were it killed too, the next run does."""
    script = ORPHAN.format(kill_janitor=kill_janitor)
    done = subprocess.run(
        (sys.executable, "-c", script), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    prefix, directory, pid = done.stdout.split()
    if kill_janitor:
        assert namespaces.namespaces(prefix)
        Run().close()

    def nothing_left() -> bool:
        return not (
            namespaces.namespaces(prefix) or Path(directory).exists() or Path(f"/proc/{pid}/cwd").exists()
        )

    eventually(nothing_left, "the orphan's things are removed")


def test_the_host_is_not_touched(owner: Run) -> None:
    def host_devices() -> set[str]:
        return {name for _, name in socket.if_nameindex()}

    before = host_devices()
    Network(owner, Plan(hosts=3, uplinked=2))
    assert host_devices() == before


@pytest.mark.parametrize(
    ("hosts", "uplinked", "lan_mbit"), [(0, 0, 1.0), (2, 3, 1.0), (201, 1, 1.0), (2, -1, 1.0), (2, 1, 0.0)]
)
def test_a_plan_that_makes_no_sense_is_refused(hosts: int, uplinked: int, lan_mbit: float) -> None:
    with pytest.raises(ValueError, match="Plan"):
        Plan(hosts=hosts, uplinked=uplinked, lan_mbit=lan_mbit)
