"""What the coherence check adds to a test.

``python benchmarks/bench_coherence.py [rounds]``. The same test, a machine without a guest that is made,
started and ended with its scope, takes turns in two sessions of one process: one checks, the other does not.
Then one check is timed beside one, two and more machines.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import TYPE_CHECKING

from pytest_qemuvm.host.capabilities import discover
from pytest_qemuvm.host.paths import cache_dir
from pytest_qemuvm.machine.harness import Harness
from pytest_qemuvm.spec.settings import resolve
from pytest_qemuvm.spec.vm import VMSpec

if TYPE_CHECKING:
    from collections.abc import Callable

ONE, FURTHER = 5.0, 2.0
"""Milliseconds that a check may add to a test with one VM, and for each further one."""
MACHINES = 5
WARM_UP = 3


def timed(act: Callable[[], object]) -> float:
    """Return how many milliseconds it takes."""
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1000


def session(coherence: str) -> Harness:
    """Return a harness that checks, or does not."""
    settings = resolve({"real": True, "coherence": coherence}, {}, {})
    return Harness(settings, discover(settings, cache_dir()), cache_dir(), print)


def one_test(harness: Harness) -> None:
    """Do what a test with one VM does."""
    harness.create(None, VMSpec(template="bare"), "test").start()
    end = harness.end("test", is_test=True)
    assert not end.findings, end.findings
    assert not end.errors, end.errors


def main(rounds: int) -> None:
    """Print what is added."""
    checking, careless = session("error"), session("off")
    try:
        rows = [
            (timed(lambda: one_test(careless)), timed(lambda: one_test(checking)))
            for _ in range(rounds + WARM_UP)
        ][WARM_UP:]
        without, with_it = (statistics.median(column) for column in zip(*rows, strict=True))
        added = statistics.median(row[1] - row[0] for row in rows)
        print(f"a test with one VM, {rounds} rounds, medians")
        print(f"  without the check {without:7.2f} ms")
        print(f"  with it           {with_it:7.2f} ms, ratio {with_it / without:.2f}")
        print(f"  added             {added:7.2f} ms, at most {ONE:g} wanted")
        took = []
        for _ in range(MACHINES):
            checking.create(None, VMSpec(template="bare"), "test").start()
            took.append(statistics.median(timed(checking.observer.check) for _ in range(rounds)))
        for number, milliseconds in enumerate(took, 1):
            print(f"  one check beside {number} VMs {milliseconds:7.2f} ms")
        each = (took[-1] - took[0]) / (MACHINES - 1)
        print(f"  each further VM   {each:7.2f} ms, at most {FURTHER:g} wanted")
    finally:
        for harness in (checking, careless):
            harness.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
