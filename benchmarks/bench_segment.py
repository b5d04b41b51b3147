"""What the switch costs, against two machines that are joined without one; and how exact its delays are.

``python benchmarks/bench_segment.py [--rounds 5] [--megabytes 16] [--sockets]``. Two VMs of ``tiny``
have two interfaces each: one pair is joined by a bare socket pair, the other through the switch. Both
take turns in one run, so that a busy host is busy for both: compare the ratios. Of the times there and
back the quickest tells what the switch costs; the median has in it how long three processes wait for a
processor of a busy host. ``--sockets`` leaves the VMs out: one process sends frames, another one reads
them, directly or through the switch, and the delays are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import socket
import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pytest_qemuvm.host.capabilities import discover
from pytest_qemuvm.host.paths import cache_dir
from pytest_qemuvm.host.switch import Switchboard
from pytest_qemuvm.machine.harness import Harness
from pytest_qemuvm.spec.devices import NicSpec
from pytest_qemuvm.spec.network import NetworkSpec
from pytest_qemuvm.spec.segment import Impairment
from pytest_qemuvm.spec.settings import resolve
from pytest_qemuvm.spec.vm import VMSpec

if TYPE_CHECKING:
    from pytest_qemuvm.host.switch import Port, Segment
    from pytest_qemuvm.machine.vm import VM

THROUGHPUT_BOUND = 0.6
"""Of what two machines reach without the switch."""
LATENCY_BOUND = 0.3
"""Milliseconds that the switch may add to the way there and back."""
DELAY_BOUND = 0.1
FRAMES = 1000
SECONDS = 120.0
DIRECT = "10.9.0"


def mac(number: int, side: int) -> str:
    """Return the address of an interface."""
    return f"52:54:00:0{side}:00:0{number}"


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a line without a switch."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)


def blast(sock: socket.socket, size: int, seconds: float) -> None:
    """Send frames in a process of its own."""
    if os.fork() == 0:
        frame = bytes.fromhex("5254000a000252540001000188b5") + bytes(size - 14)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(32):
                sock.send(frame)
        os._exit(0)
    os.wait()


def count(sock: socket.socket, size: int, seconds: float, sender: socket.socket) -> float:
    """Return the frames per second that come out of a line."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        sock.settimeout(0.3)
        number, began = 0, 0.0
        try:
            while True:
                sock.recv(70000)
                number += 1
                began = began or time.monotonic()
        except TimeoutError:
            os.write(writing, b"%f" % (number / (time.monotonic() - 0.3 - began)))
        os._exit(0)
    os.close(writing)
    blast(sender, size, seconds)
    os.wait()
    with os.fdopen(reading) as result:
        return float(result.read())


def sockets(rounds: int) -> bool:
    """Print what the switch itself can carry, and how exact its delays are; return whether they are."""
    board = Switchboard()
    segment = board.segment("bench", None)
    ports = [segment.connect(f"nic{number}", mac(number, 1), None) for number in (1, 2)]
    ends = [port.renew_peer() for port in ports]
    plain = pair()
    print(f"{'bytes':>8} {'direct/s':>10} {'switch/s':>10} {'ratio':>7}")
    for size in (64, 1514, 65000):
        rows = [
            (count(plain[1], size, 0.5, plain[0]), count(ends[1], size, 0.5, ends[0])) for _ in range(rounds)
        ]
        direct, switched = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{size:>8} {direct:>10.0f} {switched:>10.0f} {switched / direct:>7.2f}")
    exact = all(delay(segment, ports, ends, milliseconds) for milliseconds in (5, 50))
    board.close()
    return exact


def delay(segment: Segment, ports: list[Port], ends: list[socket.socket], milliseconds: int) -> bool:
    """Print how exact a delay is over 1,000 frames, one each 2 ms; return whether it is."""
    rule = segment.impair(Impairment(delay=milliseconds / 1000), [ports[0]], [ports[1]])
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, json.dumps(lateness(*ends)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as result:
        late = sorted(json.load(result))
    os.wait()
    rule.remove()
    mean, last = statistics.mean(late), late[int(len(late) * 0.99)]
    middle = statistics.median(late)
    rest = f"mean {mean:.2f}, 99 % within {last:.2f}, most {late[-1]:.2f} ms"
    print(f"delay of {milliseconds} ms: median {middle:.2f}, {rest}")
    # The mean is the host's as soon as somebody else takes the processor for long.
    return abs(middle - milliseconds) <= milliseconds * DELAY_BOUND


def lateness(sender: socket.socket, receiver: socket.socket) -> list[float]:
    """Return how many milliseconds each frame was under way."""
    frame = bytes.fromhex("525400010002525400010001") + b"\x88\xb5" + bytes(100)
    sent: list[float] = []
    late: list[float] = []
    began = time.monotonic()
    while len(late) < FRAMES:
        following = began + len(sent) * 0.002 if len(sent) < FRAMES else began + SECONDS
        if select.select([receiver], [], [], max(0, following - time.monotonic()))[0]:
            receiver.recv(70000)
            late.append((time.monotonic() - sent[len(late)]) * 1000)
        else:
            sent.append(time.monotonic())
            sender.send(frame)
    return late


def plug_directly(vm: VM, number: int, peer: socket.socket) -> str:
    """Give a VM an interface on a line without a switch; return its address."""
    qmp, own, address = vm.monitor, f"52:54:00:00:00:{number:02x}", f"{DIRECT}.{number}"
    # As the guest is told of the harness's own.
    vm.run(f"echo {own}={address}=255.255.255.0== >/run/qemuvm/net")
    qmp.name_fd("line", peer)
    peer.close()
    qmp.execute("netdev_add", {"type": "dgram", "id": "line", "local": {"type": "fd", "str": "line"}})
    place = {"bus": vm.plan.free_ports[-1], "netdev": "line", "mac": own, "romfile": ""}
    qmp.execute("device_add", {"driver": "virtio-net-pci", "id": "direct", **place})
    vm.wait_until_succeeds(f"ip addr show | grep -q 'inet {address}/'")
    return address


def round_trip(vm: VM, address: str) -> tuple[float, float]:
    """Return the milliseconds there and back: the quickest, and the median."""
    said = vm.run(f"ping -c 100 -i 0.01 {address}", timeout=SECONDS).stdout
    times = [float(found) for found in re.findall(r"time=([0-9.]+) ms", said)]
    return min(times), statistics.median(times)


def throughput(sender: VM, receiver: VM, address: str, megabytes: int) -> float:
    """Return the megabytes of TCP per second."""
    # Its input stays open: nc ends the connection when it has nothing more to send.
    receiver.run("tail -f /dev/null | nc -l -p 5001 >/dev/null 2>&1 &")
    receiver.run("until netstat -ltn | grep -q :5001; do usleep 9999; done")
    began = time.perf_counter()
    sender.run(
        f"dd if=/dev/zero bs=64k count={megabytes * 16} 2>/dev/null | nc {address} 5001", timeout=SECONDS
    )
    return megabytes / (time.perf_counter() - began)


def machines(rounds: int, megabytes: int) -> bool:
    """Print what two VMs notice of the switch; return whether it is within the bounds."""
    settings = resolve({"real": True, "coherence": "off"}, {}, {})
    with ExitStack() as stack:
        harness = Harness(settings, discover(settings, cache_dir()), cache_dir(), print)
        stack.callback(harness.close)
        lan = harness.create_network("lan", NetworkSpec(), "bench")
        one, two = (harness.create_started(None, VMSpec(template="tiny"), "bench") for _ in range(2))
        ends = pair()
        direct = [plug_directly(vm, index + 1, ends[index]) for index, vm in enumerate((one, two))]
        switched = [vm.hotplug(NicSpec(network=lan)).ip for vm in (one, two)]
        lan.wait_all_up()
        addresses = (direct[1], str(switched[1]))
        rows = [
            [(*round_trip(one, address), throughput(one, two, address, megabytes)) for address in addresses]
            for _ in range(rounds)
        ]
    print(f"{'':14} {'direct':>8} {'switch':>8}")
    for index, unit in enumerate(("ms, quickest", "ms, median", "MB/s of TCP")):
        direct, switched = (statistics.median(row[side][index] for row in rows) for side in (0, 1))
        print(f"{unit:14} {direct:>8.2f} {switched:>8.2f}")
    ratio = statistics.median(switched[2] / direct[2] for direct, switched in rows)
    more = min(row[1][0] for row in rows) - min(row[0][0] for row in rows)
    print(f"throughput {ratio:.2f} of direct, bound {THROUGHPUT_BOUND}")
    print(f"round trip {more:+.2f} ms, bound {LATENCY_BOUND:+}")
    return ratio >= THROUGHPUT_BOUND and more <= LATENCY_BOUND


def main() -> int:
    """Measure, and return 1 where the switch costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=16)
    parser.add_argument("--sockets", action="store_true")
    options = parser.parse_args()
    within = sockets(options.rounds) if options.sockets else machines(options.rounds, options.megabytes)
    return int(not within)


if __name__ == "__main__":
    raise SystemExit(main())
