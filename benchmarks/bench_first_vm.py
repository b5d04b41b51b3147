"""What the reaper and the lease add to the first VM of a session.

``python benchmarks/bench_first_vm.py [rounds]``. Each round starts the first ``bare`` machine of a session
twice, each time in a process of its own: as it is, and with nobody told, nothing leased, nothing published.
Both take turns, so that a busy host is busy for both; that adds to some rounds and takes from none, so the
least of many says more than the median.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

FIRST = """
import sys
import time
from pytest_qemuvm.host import lease, provision, reaper
from pytest_qemuvm.host.capabilities import discover
from pytest_qemuvm.host.paths import cache_dir, runtime_root
from pytest_qemuvm.machine.harness import Harness
from pytest_qemuvm.spec.settings import resolve
from pytest_qemuvm.spec.vm import VMSpec

if sys.argv[1] == "without":
    reaper.Reaper._watch = lambda *_: None
    lease.Lease.take = lambda _: runtime_root()
    provision.Provisioner.publish = lambda *_: None
settings = resolve({"real": True}, {}, {})
harness = Harness(settings, discover(settings, cache_dir()), cache_dir(), print)
began = time.perf_counter()
harness.create(None, VMSpec(template="bare"), "bench").start()
took = time.perf_counter() - began
began = time.perf_counter()
harness._publish()
published = time.perf_counter() - began
began = time.perf_counter()
harness.close()
print(took, time.perf_counter() - began, published)
"""


def measure(kind: str) -> list[float]:
    """Return seconds to the first machine, to the session's end, and to publish."""
    done = subprocess.run([sys.executable, "-c", FIRST, kind], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    pairs = [(measure("with"), measure("without")) for _ in range(rounds)]
    print(f"first bare machine of a session, {rounds} rounds")
    for name, place in (("start", 0), ("end", 1)):
        having, lacking = ([kind[place] * 1000 for kind in column] for column in zip(*pairs, strict=True))
        for word, of in (("least", min), ("median", statistics.median)):
            print(f"  {name:5} {word:6} with {of(having):7.2f} ms, without {of(lacking):7.2f} ms")
    print(f"  one record written {statistics.median(one[2] for one, _ in pairs) * 1000:7.2f} ms")


if __name__ == "__main__":
    main()
