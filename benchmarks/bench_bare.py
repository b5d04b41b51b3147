"""A bare VM against the same QEMU started by a raw script: ratio of set-up plus tear-down.

``python benchmarks/bench_bare.py [rounds]``. The raw script starts the very command line of the plan, reads
the greeting, negotiates, and quits. Both take turns in one process, so that a busy host is busy for both.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from pytest_qemuvm.host.capabilities import discover
from pytest_qemuvm.host.paths import cache_dir
from pytest_qemuvm.machine.harness import Harness
from pytest_qemuvm.spec.settings import resolve
from pytest_qemuvm.spec.vm import VMSpec

if TYPE_CHECKING:
    from pytest_qemuvm.plan import MachinePlan


def raw_round(plan: MachinePlan, firmware: str) -> float:
    """Start, greet, negotiate, quit; return seconds."""
    started = time.perf_counter()
    pairs = {name: socket.socketpair() for name in plan.sockets}
    numbers = {name: theirs.fileno() for name, (_, theirs) in pairs.items()}
    argv = [word.replace(plan.firmware[0], firmware) for word in plan.argv_with(numbers)]
    argv = [word.replace(plan.console_log, "/dev/null") for word in argv]
    process = subprocess.Popen(
        argv, pass_fds=tuple(numbers.values()), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _, theirs in pairs.values():
        theirs.close()
    with pairs["qmp"][0].makefile("rwb", buffering=0) as monitor:
        monitor.readline()
        for command in ("qmp_capabilities", "quit"):
            monitor.write(json.dumps({"execute": command}).encode() + b"\n")
            monitor.readline()
    process.wait()
    for ours, _ in pairs.values():
        ours.close()
    return time.perf_counter() - started


def harness_round(harness: Harness, spec: VMSpec) -> float:
    """Do what the fixture ``vm`` does before and after a test; return seconds."""
    started = time.perf_counter()
    vm = harness.create(None, spec, "bench")
    vm.start()
    vm.delete()
    return time.perf_counter() - started


def main() -> None:
    """Print medians and the ratio."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    settings = resolve({"real": True}, {}, {})
    harness = Harness(settings, discover(settings, cache_dir()), cache_dir(), print)
    spec = VMSpec(template="bare")
    try:
        vm = harness.create("first", spec, "bench")
        vm.start()
        firmware = str(vm.run_dir / "firmware.bin")
        pairs = [(raw_round(vm.plan, firmware), harness_round(harness, spec)) for _ in range(rounds)]
    finally:
        harness.close()
    raw, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = sorted(mine / other for other, mine in pairs)
    print(f"raw script:   {raw * 1000:6.1f} ms")
    print(f"bare VM:      {ours * 1000:6.1f} ms")
    print(f"ratio:        {ours / raw:6.2f}   (pair by pair: median {statistics.median(ratios):.2f})")


if __name__ == "__main__":
    main()
