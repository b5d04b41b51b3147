"""What a QMP round trip costs through the harness, against the bare library in an event loop of its own.

Both talk to one real QEMU each, in turns, in one run: compare the ratio, not the microseconds.

    python benchmarks/bench_qmp.py [--rounds 9] [--calls 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import statistics
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from qemu.qmp import QMPClient

from pytest_qemuvm.qmp import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

BINARY = "qemu-system-x86_64"
BOUND = 1.3


@contextmanager
def monitor() -> Iterator[socket.socket]:
    """Yield the socket of the monitor of a QEMU without a guest."""
    ours, theirs = socket.socketpair()
    argv = [BINARY, "-nodefaults", "-no-user-config", "-display", "none", "-S", "-m", "64"]
    argv += ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]
    process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        process.wait()


def direct(runner: asyncio.Runner, library: QMPClient, command: str, calls: int) -> float:
    """Return the seconds per call through the library."""

    async def many() -> float:
        begin = time.perf_counter()
        for _ in range(calls):
            await library.execute(command)
        return (time.perf_counter() - begin) / calls

    return runner.run(many())


def harness(client: Client, command: str, calls: int) -> float:
    """Return the seconds per call through the harness."""
    begin = time.perf_counter()
    for _ in range(calls):
        client.execute(command)
    return (time.perf_counter() - begin) / calls


def main() -> int:
    """Measure, print a table, and return 1 where a round trip costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=1000)
    options = parser.parse_args()
    worst = 0.0
    with monitor() as one, monitor() as other, asyncio.Runner() as runner, Client.from_socket(one) as client:
        library = QMPClient("benchmark")
        runner.run(library.connect(other))
        print(f"{'command':<18} {'library':>12} {'harness':>12} {'ratio':>8}")
        for command, calls in (("query-status", options.calls), ("query-qmp-schema", options.calls // 50)):
            pairs = [
                (direct(runner, library, command, calls), harness(client, command, calls))
                for _ in range(options.rounds)
            ]
            ratio = statistics.median(ours / theirs for theirs, ours in pairs)
            theirs, ours = (statistics.median(column) * 1e6 for column in zip(*pairs, strict=True))
            print(f"{command:<18} {theirs:>9.0f} us {ours:>9.0f} us {ratio:>8.2f}")
            worst = max(worst, ratio)
        runner.run(library.disconnect())
    print(f"bound: {BOUND}")
    return int(worst > BOUND)


if __name__ == "__main__":
    raise SystemExit(main())
