"""VMs started side by side against the same VMs started one after the other.

``python benchmarks/bench_parallel.py [bare|tiny] [machines] [rounds]``. Both take turns in one process, so
that a busy host is busy for both. A ratio of 1 means that nothing is gained, of 1 / machines that all of it
is; the processors that the host has free set the limit, because a guest that boots keeps one busy.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pytest_qemuvm.host.capabilities import discover
from pytest_qemuvm.host.paths import cache_dir
from pytest_qemuvm.machine.harness import Harness
from pytest_qemuvm.spec.settings import resolve
from pytest_qemuvm.spec.vm import VMSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_qemuvm.machine.vm import VM

MACHINES, ROUNDS = 4, 5
KINDS = ("bare", "tiny")


def one_by_one(vms: list[VM]) -> None:
    """Start each when the one before it is ready."""
    for vm in vms:
        vm.start()


def side_by_side(vms: list[VM]) -> None:
    """Start each from a thread of its own."""
    with ThreadPoolExecutor(len(vms)) as pool:
        list(pool.map(lambda vm: vm.start(), vms))


def timed(harness: Harness, spec: VMSpec, machines: int, start: Callable[[list[VM]], None]) -> float:
    """Return how many seconds it takes until all of so many new VMs are ready."""
    vms = [harness.create(None, spec, "bench") for _ in range(machines)]
    began = time.perf_counter()
    start(vms)
    seconds = time.perf_counter() - began
    for vm in vms:
        vm.delete()
    return seconds


def measure(kind: str, machines: int, rounds: int) -> None:
    """Print medians and the ratio for one kind of machine."""
    settings = resolve({"real": True}, {}, {})
    harness = Harness(settings, discover(settings, cache_dir()), cache_dir(), print)
    spec = VMSpec(template=kind, start="cold")
    try:
        timed(harness, spec, 1, one_by_one)  # builds the guest where that has not been done
        pairs = [
            (timed(harness, spec, machines, one_by_one), timed(harness, spec, machines, side_by_side))
            for _ in range(rounds)
        ]
    finally:
        harness.close()
    in_turn, at_once = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(parallel / serial for serial, parallel in pairs)
    accelerator = harness.capabilities.accelerator
    print(
        f"{machines} {kind} on {accelerator.name if accelerator else '?'}, {rounds} rounds, medians, "
        f"{len(os.sched_getaffinity(0))} processors"
    )
    print(f"  one by one    {in_turn * 1000:7.1f} ms")
    print(f"  side by side  {at_once * 1000:7.1f} ms")
    print(f"  ratio         {ratio:7.2f}")


def main() -> None:
    """Measure what the command line names, or everything."""
    kinds = [word for word in sys.argv[1:] if word in KINDS] or list(KINDS)
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    machines, rounds = (*numbers, *(MACHINES, ROUNDS)[len(numbers) :])
    for kind in kinds:
        measure(kind, machines, rounds)


if __name__ == "__main__":
    main()
