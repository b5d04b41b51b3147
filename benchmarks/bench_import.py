"""What the plugin adds to a suite that asks for no VM: ``pytest --collect-only`` with it and without it.

``python benchmarks/bench_import.py [rounds]``, in an environment into which the plugin was installed. The two
take turns. Bytecode is cached, as it is wherever pip installs.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Print the medians and their difference."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "test_nothing.py").write_text("def test_nothing(): pass\n")
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]

        def run(*more: str) -> float:
            started = time.perf_counter()
            subprocess.run([*command, *more], cwd=directory, env=environment, check=True, capture_output=True)
            return time.perf_counter() - started

        run()
        pairs = [(run("-p", "no:qemuvm"), run()) for _ in range(rounds)]
    without, with_it = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
    added = statistics.median(mine - other for other, mine in pairs) * 1000
    print(f"without the plugin {without:6.1f} ms, with it {with_it:6.1f} ms: it adds {added:.1f} ms")


if __name__ == "__main__":
    main()
