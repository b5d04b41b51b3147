"""From the request for a segment of three VMs until each of them has had an answer from the next one.

``python benchmarks/bench_networks.py [machines] [rounds]``. The same machines without a network take turns
with them in one process, so that a busy host is busy for both: what the network costs is the difference.
After them come rounds with machines that the pool has had ready.
"""

from __future__ import annotations

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pytest_qemuvm.host.capabilities import discover
from pytest_qemuvm.host.paths import cache_dir
from pytest_qemuvm.machine.harness import Harness
from pytest_qemuvm.spec.devices import NicSpec
from pytest_qemuvm.spec.network import NetworkSpec
from pytest_qemuvm.spec.settings import resolve
from pytest_qemuvm.spec.vm import VMSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_qemuvm.machine.networks.network import Network
    from pytest_qemuvm.machine.vm import VM

MACHINES, ROUNDS = 3, 15
FILL_SECONDS = 60.0
"""How long the pool may take to have its machines ready: it waits for an idle processor."""


def answered(pool: ThreadPoolExecutor, lan: Network, vms: list[VM]) -> float:
    """Have each have an answer from the next one; return when all had it, and remove everything."""
    targets = [*vms[1:], vms[0]]
    list(pool.map(lambda pair: pair[0].run(f"ping -c 1 -W 5 {pair[1].ip}"), zip(vms, targets, strict=True)))
    moment = time.perf_counter()
    for vm in vms:
        vm.delete()
    lan.delete()
    return moment


def on_a_segment(harness: Harness, pool: ThreadPoolExecutor, machines: int) -> tuple[float, float]:
    """Return the seconds until all are ready, and until all have had an answer."""
    began = time.perf_counter()
    lan = harness.create_network(None, NetworkSpec(), "bench")
    spec = VMSpec(nics=(NicSpec(network=lan),))
    vms = [harness.create(None, spec, "bench") for _ in range(machines)]

    def up(vm: VM) -> float:
        vm.start()
        return time.perf_counter() - began

    ready = max(pool.map(up, vms))
    return ready, answered(pool, lan, vms) - began


def alone(harness: Harness, pool: ThreadPoolExecutor, machines: int) -> tuple[float, float]:
    """Return the seconds until as many without a network are ready, and until all have run a command."""
    began = time.perf_counter()
    vms = [harness.create(None, VMSpec(), "bench") for _ in range(machines)]
    list(pool.map(lambda vm: vm.start(), vms))
    ready = time.perf_counter() - began
    list(pool.map(lambda vm: vm.run("/bin/true"), vms))
    ran = time.perf_counter() - began
    for vm in vms:
        vm.delete()
    return ready, ran


def out_of_the_pool(harness: Harness, pool: ThreadPoolExecutor, machines: int) -> tuple[float, float]:
    """Return the seconds until all are there, and until all have had an answer; the pool fills up before."""
    harness.pool.settle(FILL_SECONDS)
    began = time.perf_counter()
    lan = harness.create_network(None, NetworkSpec(), "bench")
    spec = VMSpec(nics=(NicSpec(network=lan),))
    vms = list(pool.map(lambda _: harness.create_started(None, spec, "bench"), range(machines)))
    ready = time.perf_counter() - began
    return ready, answered(pool, lan, vms) - began


def a_harness(pool: int) -> Harness:
    """Return a harness that has so many machines ready."""
    settings = resolve({"real": True, "pool": str(pool)}, {}, {})
    return Harness(settings, discover(settings, cache_dir()), cache_dir(), print)


def show(texts: tuple[str, ...], rows: Sequence[tuple[float, ...]]) -> None:
    """Print the columns of rows of seconds."""
    for text, column in zip(texts, zip(*rows, strict=True), strict=True):
        values = [value * 1000 for value in column]
        print(f"  {text:40} {statistics.median(values):7.1f} ({min(values):.1f})")


def main() -> None:
    """Measure and print."""
    machines, rounds = (
        int(sys.argv[at]) if len(sys.argv) > at else usual for at, usual in ((1, MACHINES), (2, ROUNDS))
    )
    print(f"{machines} clones of tiny, {rounds} rounds, milliseconds: median (least)")
    with ThreadPoolExecutor(machines) as pool:
        harness = a_harness(0)
        try:
            on_a_segment(harness, pool, machines)  # makes the live templates where that has not been done
            alone(harness, pool, machines)
            rows = [
                (*on_a_segment(harness, pool, machines), *alone(harness, pool, machines))
                for _ in range(rounds)
            ]
        finally:
            harness.close()
        show(
            ("segment: ready", "segment: each has had an answer", "alone: ready", "alone: each has run true"),
            rows,
        )
        harness = a_harness(machines)
        try:
            out_of_the_pool(harness, pool, machines)  # says what the pool is to have ready
            waited = [out_of_the_pool(harness, pool, machines) for _ in range(rounds)]
        finally:
            harness.close()
        show(("out of the pool: ready", "out of the pool: each has had an answer"), waited)


if __name__ == "__main__":
    main()
