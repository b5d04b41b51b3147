"""What a service of the host's carries, against one machine that fetches from another on the same segment.

``python benchmarks/bench_services.py [--rounds 5] [--megabytes 16]``. All ways take turns in one run, so
that a busy host is busy for all: compare the ratios. Between two machines each byte goes through the kernels
of two guests.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pytest_qemuvm.host.capabilities import discover
from pytest_qemuvm.host.paths import cache_dir
from pytest_qemuvm.machine.harness import Harness
from pytest_qemuvm.spec.network import NetworkSpec
from pytest_qemuvm.spec.settings import resolve
from pytest_qemuvm.spec.vm import VMSpec

if TYPE_CHECKING:
    from pytest_qemuvm.machine.vm import VM

BOUND = 0.5
"""Of what a machine fetches from another."""
SECONDS = 120.0
_PIECE = bytes(1 << 16)


def serve(sock: socket.socket, megabytes: int) -> None:
    """Answer each connection with so many megabytes if it says nothing, or take what it says."""
    while True:
        try:
            connection, _ = sock.accept()
        except OSError:
            return
        with connection:
            if connection.recv(1 << 16):
                while connection.recv(1 << 16):
                    pass
            else:
                for _ in range(megabytes * 16):
                    connection.sendall(_PIECE)


def seconds(vm: VM, command: str) -> float:
    """Return how long a command takes in a guest."""
    began = time.perf_counter()
    vm.run(command, timeout=SECONDS)
    return time.perf_counter() - began


def between(sender: VM, receiver: VM, megabytes: int) -> float:
    """Return the megabytes per second from one machine to another."""
    receiver.run("tail -f /dev/null | nc -l -p 5001 >/dev/null 2>&1 &")
    receiver.run("until netstat -ltn | grep -q :5001; do usleep 9999; done")
    made = f"dd if=/dev/zero bs=64k count={megabytes * 16} 2>/dev/null"
    return megabytes / seconds(sender, f"{made} | nc {receiver.ip} 5001")


def main() -> int:
    """Measure, and return 1 where a service is slower than it may be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=16)
    options = parser.parse_args()
    size = options.megabytes
    settings = resolve({"real": True, "coherence": "off"}, {}, {})
    with ExitStack() as stack:
        harness = Harness(settings, discover(settings, cache_dir()), cache_dir(), print)
        stack.callback(harness.close)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        threading.Thread(target=serve, args=(listener, size), daemon=True).start()
        lan = harness.create_network("lan", NetworkSpec(), "bench")
        service = lan.serve(80, listener.getsockname())
        spec = VMSpec(template="tiny", nics=(lan.launch_spec(),))
        one, two = (harness.create_started(None, spec, "bench") for _ in range(2))
        lan.wait_all_up()
        made = f"dd if=/dev/zero bs=64k count={size * 16} 2>/dev/null"
        rows = [
            (
                between(one, two, size),
                size / seconds(one, f"nc {service.ip} 80 </dev/null >/dev/null"),
                size / seconds(one, f"{made} | nc {service.ip} 80"),
            )
            for _ in range(options.rounds)
        ]
    vms, down, up = (statistics.median(column) for column in zip(*rows, strict=True))
    ratios = [statistics.median(row[place] / row[0] for row in rows) for place in (1, 2)]
    print(f"MB/s: machine to machine {vms:.1f}, host to guest {down:.1f}, guest to host {up:.1f}")
    print(f"ratio: host to guest {ratios[0]:.2f}, guest to host {ratios[1]:.2f}, bound {BOUND}")
    return int(min(ratios) < BOUND)


if __name__ == "__main__":
    raise SystemExit(main())
