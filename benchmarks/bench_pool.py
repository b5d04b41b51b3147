"""Clones out of the warm pool against clones that are made when they are asked for.

``python benchmarks/bench_pool.py [rounds] [--tests N]``. Both take turns in one process, so that a busy host
is busy for both; before each request to the pool it is full, however busy the host is. Seconds depend on the
host, ratios hardly. Next to them stands the processor time that one VM costs, its preparation included: the
pool saves none, it only spends it earlier.

``--tests`` runs a suite of so many tests with and without ``--qemu-pool=2``, each test with a VM, a command
and 0.3 s of other work: there the pool fills only while a processor is idle, and the report says how often
it did.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_clones import pss

from pytest_qemuvm.host.capabilities import discover
from pytest_qemuvm.host.paths import cache_dir
from pytest_qemuvm.machine.harness import Harness
from pytest_qemuvm.machine.pool import POOL
from pytest_qemuvm.spec.devices import DiskSpec
from pytest_qemuvm.spec.settings import resolve
from pytest_qemuvm.spec.vm import VMSpec

ROUNDS = 20
SECONDS = 120.0
SUITE = """
import threading
import pytest

@pytest.mark.parametrize("number", range({tests}))
def test_it(number, vm):
    assert vm.run("echo ready").stdout == "ready\\n"
    threading.Event().wait(0.3)
"""


def processor_time() -> float:
    """Return the seconds of processor time of this process and of all machines that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def one(harness: Harness, spec: VMSpec) -> tuple[float, float, bool]:
    """Return the seconds to ready and to the end of the first command, and whether the pool gave it."""
    began = time.perf_counter()
    vm = harness.create_started(None, spec, "bench")
    ready = time.perf_counter() - began
    assert vm.run("echo ready").stdout == "ready\n"
    first = time.perf_counter() - began
    pooled = vm.from_pool
    vm.delete()
    return ready, first, pooled


def rounds_of(harness: Harness, spec: VMSpec, rounds: int) -> None:
    """Print how the two compare."""
    rows = []
    spent = {False: 0.0, True: 0.0}
    for _ in range(rounds):
        pair = []
        for size in (0, 1):
            harness.pool.size = size
            began = processor_time()
            if size:
                one(harness, spec)  # which has the next prepared
                assert harness.pool.settle(SECONDS)
                harness.pool.size = 0  # none is prepared while it is measured
            ready, first, pooled = one(harness, spec)
            assert pooled == bool(size)
            pair.append((ready, first))
            spent[bool(size)] += processor_time() - began
        rows.append(pair)
    print(f"clones of tiny with a disk, {rounds} rounds, medians")
    for index, what in enumerate(("to ready", "to the first command's end")):
        made = statistics.median(row[0][index] for row in rows)
        pooled_ = statistics.median(row[1][index] for row in rows)
        ratio = statistics.median(row[0][index] / row[1][index] for row in rows)
        seconds = f"made {made * 1000:7.1f} ms  pooled {pooled_ * 1000:7.1f} ms"
        print(f"  {what:28} {seconds}  {ratio:5.1f} times faster")
    made_cost = spent[False] / rounds
    print(
        f"  processor time of one        made {made_cost * 1000:7.1f} ms  "
        f"pooled {(spent[True] / rounds - made_cost) * 1000:7.1f} ms"
    )


def memory(harness: Harness, spec: VMSpec) -> None:
    """Print what a VM of the pool takes while it waits."""
    harness.pool.size = 2
    one(harness, spec)
    assert harness.pool.settle(SECONDS)
    each = [pss(vm.pid) for vm in harness.owned_by(POOL) if vm.pid is not None]
    print(f"  memory of one that waits     {statistics.mean(each):7.1f} MiB (PSS, {len(each)} waiting)")


def whole_run(tests: int) -> None:
    """Print how a run of pytest with the pool compares with one without."""
    with tempfile.TemporaryDirectory(prefix="bench") as directory:
        Path(directory, "test_it.py").write_text(SUITE.format(tests=tests))
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--qemu-real", directory]
        for words in ([], ["--qemu-pool=2"]):
            began = time.perf_counter()
            done = subprocess.run([*argv, *words], check=True, capture_output=True, text=True)
            seconds = time.perf_counter() - began
            said = re.search(r"qemuvm: (.*clone.*)", done.stdout)
            assert said is not None, done.stdout
            print(f"{tests} tests {' '.join(words):14} {seconds:6.1f} s: {said[1]}")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=int, nargs="?", default=ROUNDS)
    parser.add_argument("--tests", type=int, default=0, help="compare whole runs of so many tests too")
    arguments = parser.parse_args()
    settings = resolve({"real": True, "coherence": "off"}, {}, {})
    harness = Harness(settings, discover(settings, cache_dir()), cache_dir(), print)
    harness.pool.spare = lambda _pause: True
    spec = VMSpec(template="tiny", disks=(DiskSpec("64M"),))
    try:
        one(harness, spec)
        if arguments.rounds:
            rounds_of(harness, spec, arguments.rounds)
            memory(harness, spec)
    finally:
        harness.close()
    if arguments.tests:
        whole_run(arguments.tests)


if __name__ == "__main__":
    main()
