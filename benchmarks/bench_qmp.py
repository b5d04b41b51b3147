"""What a QMP round trip costs through the harness, against the bare library in an event loop of its own.

Through the harness it is judged, checked and noted, as a test's own is. Both talk to one real QEMU each, in
turns, in one run: compare the ratio, not the microseconds.

    python benchmarks/bench_qmp.py [--rounds 9] [--calls 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import statistics
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qemu.qmp import QMPClient

from pytest_qemuvm.qmp import Client
from pytest_qemuvm.qmp.audit import AuditLog
from pytest_qemuvm.qmp.policy import Places
from pytest_qemuvm.qmp.schemas import SchemaSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_qemuvm.qmp.warden import Warden

BINARY = "qemu-system-x86_64"
BOUND = 1.3
VALIDATION_BOUND = 100.0
"""Microseconds that judging and checking may add to a call."""
FILE = {"driver": "file", "filename": "disk.qcow2"}
CALLS: dict[str, dict[str, Any]] = {
    "query-status": {},
    "device_del": {"id": "disk0"},
    "send-key": {"keys": [{"type": "qcode", "data": key} for key in ("ctrl", "alt", "delete")]},
    "blockdev-add": {"driver": "qcow2", "node-name": "disk", "file": FILE},
}


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


def guarded(client: Client, directory: Path) -> Warden:
    """Give a client what a test's machine has: the schema, a place for files, and an audit."""
    schemas = SchemaSource()
    schemas.learn(client.execute("query-qmp-schema"))
    warden = client._session.warden  # noqa: SLF001  # the harness makes one before it connects
    warden.schemas = schemas
    warden.places = Places(directory, (directory,))
    warden.audit = AuditLog(directory / "audit")
    return warden


def validation(warden: Warden, calls: int) -> float:
    """Print what judging and checking a call takes, and return the most, in microseconds."""
    slowest = 0.0
    for command, arguments in CALLS.items():
        rounds = []
        for _ in range(9):
            begin = time.perf_counter()
            for _ in range(calls):
                warden.admit(command, arguments)
                warden.check(command, arguments)
            rounds.append((time.perf_counter() - begin) / calls * 1e6)
        median = statistics.median(rounds)
        slowest = max(slowest, median)
        print(f"validation of {command:<18} {median:>9.1f} us")
    return slowest


def main() -> int:
    """Measure, print a table, and return 1 where a round trip costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=1000)
    options = parser.parse_args()
    worst = 0.0
    with (
        tempfile.TemporaryDirectory() as directory,
        monitor() as one,
        monitor() as other,
        asyncio.Runner() as runner,
        Client.from_socket(one) as client,
    ):
        warden = guarded(client, Path(directory))
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
        print(f"bound: {BOUND}\n")
        slowest = validation(warden, options.calls)
    print(f"bound: {VALIDATION_BOUND:.0f} us")
    return int(worst > BOUND or slowest > VALIDATION_BOUND)


if __name__ == "__main__":
    raise SystemExit(main())
