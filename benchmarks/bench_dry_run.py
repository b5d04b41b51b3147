"""What a test with a machine without a guest costs in dry-run, beside what it costs on a real one.

``python benchmarks/bench_dry_run.py [rounds] [file of tests ...]``. The same test, set up and torn down,
takes turns in two sessions of one process: one simulates, the other has real machines. Files of tests, if any
are named, are then run in dry-run as a pytest of their own with two workers, and timed.
"""

from __future__ import annotations

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
    from collections.abc import Sequence

WANTED = 60.0
"""Milliseconds that setting up and tearing down may take in dry-run."""
SUITE_WANTED = 60.0
"""Seconds that the contract suite may take on two cores."""
WARM_UP = 3


def session(mode: str) -> Harness:
    """Return a harness in that mode."""
    settings = resolve({mode: True}, {}, {})
    return Harness(settings, discover(settings, cache_dir()), cache_dir(), print)


def one_test(harness: Harness) -> tuple[float, float]:
    """Do what a test with one VM does; return the milliseconds of its set-up and of its tear-down."""
    begun = time.perf_counter()
    harness.create(None, VMSpec(template="bare"), "test").start()
    up = time.perf_counter()
    end = harness.end("test", is_test=True)
    down = time.perf_counter()
    assert not end.findings, end.findings
    assert not end.errors, end.errors
    return (up - begun) * 1000, (down - up) * 1000


def machines(rounds: int) -> bool:
    """Print what one machine costs in either mode; return whether it is what was wanted."""
    sessions = {mode: session(mode) for mode in ("dry-run", "real")}
    took: dict[str, list[tuple[float, float]]] = {mode: [] for mode in sessions}
    try:
        for _ in range(rounds + WARM_UP):
            for mode, harness in sessions.items():
                took[mode].append(one_test(harness))
    finally:
        for harness in sessions.values():
            harness.close()
    print(f"a bare test, {rounds} rounds, medians: set-up and tear-down")
    total = {}
    for mode, rows in took.items():
        up, down = (statistics.median(column) for column in zip(*rows[WARM_UP:], strict=True))
        total[mode] = statistics.median(sum(row) for row in rows[WARM_UP:])
        print(f"  {mode:8} {up:7.2f} ms + {down:5.2f} ms, together {total[mode]:7.2f} ms")
    print(f"  dry-run may take {WANTED:g} ms; against real {total['dry-run'] / total['real']:.2f}")
    return total["dry-run"] <= WANTED


def suite(files: Sequence[str]) -> bool:
    """Time files of tests in dry-run; return whether they passed and took what was wanted."""
    argv = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--qemu-dry-run", *files]
    begun = time.perf_counter()
    status = subprocess.run(argv, check=False).returncode
    seconds = time.perf_counter() - begun
    print(f"{len(files)} files in dry-run: status {status}, {seconds:.1f} s, at most {SUITE_WANTED:g} wanted")
    return status == 0 and seconds <= SUITE_WANTED


def main(words: Sequence[str]) -> int:
    """Print all figures; the status is 1 where one of them is not what was wanted."""
    rounds, files = (int(words[0]), words[1:]) if words and words[0].isdigit() else (30, words)
    good = machines(rounds)
    if files:
        good = suite(files) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
