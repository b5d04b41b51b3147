"""How long the simulated QEMU takes from its start to a negotiated monitor, beside a real one.

Run: ``python benchmarks/bench_simulator.py [QEMU]``, on a quiet machine. Target: under 25 ms.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest_qemuvm

ROUNDS = 25
SIMULATOR = Path(pytest_qemuvm.__file__).parent / "sim" / "qemu_main.py"
ARGUMENTS = (
    *("-no-user-config", "-nodefaults", "-display", "none", "-S", "-machine", "q35", "-accel", "tcg"),
    *("-device", '{"driver":"pcie-root-port","id":"rp0","bus":"pcie.0","addr":"0x10.0","chassis":1}'),
    *("-device", '{"driver":"virtio-serial-pci","id":"vserial","bus":"pcie.0"}'),
    *("-device", '{"driver":"virtio-scsi-pci","id":"scsi","bus":"pcie.0"}'),
    *("-device", '{"driver":"qemu-xhci","id":"usb","bus":"pcie.0"}'),
)


def start(program: list[str]) -> float:
    """Return the milliseconds from the start to the answer to ``qmp_capabilities``."""
    ours, theirs = socket.socketpair()
    words = ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]
    begun = time.perf_counter()
    with subprocess.Popen([*program, *ARGUMENTS, *words], pass_fds=[theirs.fileno()]) as process, ours:
        theirs.close()
        ours.recv(1 << 16)
        ours.sendall(b'{"execute":"qmp_capabilities"}')
        ours.recv(1 << 16)
        taken = time.perf_counter() - begun
        process.kill()
    return taken * 1000


def main(qemu: str = "qemu-system-x86_64") -> None:
    """Print the least and the median of each."""
    for name, program in (
        ("simulated", [sys.executable, "-I", "-S", "-E", str(SIMULATOR)]),
        ("real", [qemu]),
    ):
        taken = [start(program) for _ in range(ROUNDS)]
        print(f"{name}: least {min(taken):.1f} ms, median {statistics.median(taken):.1f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])
