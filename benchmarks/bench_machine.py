"""A VM of the harness against the same QEMU driven by a raw script.

``python benchmarks/bench_machine.py [bare|tiny] [rounds]``. The raw script starts the very command line that
the harness planned and does the least that a test needs: for ``bare`` the greeting, the negotiation and quit;
for ``tiny`` the first command in the guest, then SIGKILL. Both take turns in one process, so that a busy host
is busy for both. Seconds depend on the host, ratios hardly.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import QemuVMError
from pytest_qemuvm.guest.agent import AgentChannel
from pytest_qemuvm.host.capabilities import discover
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.paths import cache_dir
from pytest_qemuvm.machine.harness import Harness
from pytest_qemuvm.plan import MONITOR
from pytest_qemuvm.spec.settings import resolve
from pytest_qemuvm.spec.vm import VMSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.plan import MachinePlan


class PidInterrupt:
    """What the agent's channel needs to know of the process."""

    def __init__(self, pid: int) -> None:
        self._fd = os.pidfd_open(pid)

    def fileno(self) -> int:
        """Return the pidfd."""
        return self._fd

    def error(self) -> QemuVMError:
        """Return what is wrong once it is readable."""
        return QemuVMError("QEMU has ended")

    def close(self) -> None:
        """Give the pidfd back."""
        os.close(self._fd)


@contextmanager
def raw_machine(plan: MachinePlan) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, socket.socket]]]:
    """Start a planned command line; its console goes to no file."""
    pairs = {name: socket.socketpair() for name in plan.sockets}
    # For the second monitor, which the raw script has no use for: an address of the kernel's choosing.
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")
    listener.listen()
    numbers = {name: theirs.fileno() for name, (_, theirs) in pairs.items()} | {MONITOR: listener.fileno()}
    argv = [word.replace(plan.console_log, "/dev/null") for word in plan.argv_with(numbers)]
    process = subprocess.Popen(
        argv, pass_fds=tuple(numbers.values()), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    listener.close()
    for _, theirs in pairs.values():
        theirs.close()
    ours = {name: mine for name, (mine, _) in pairs.items()}
    # An unread console stops the guest.
    drain = threading.Thread(target=lambda: all(iter(lambda: ours["console"].recv(65536), b"")), daemon=True)
    drain.start()
    try:
        yield process, ours
    finally:
        process.wait()
        drain.join()
        for mine in ours.values():
            mine.close()


def raw_bare(plan: MachinePlan) -> None:
    """Greet, negotiate, quit."""
    with (
        raw_machine(plan) as (_, sockets),
        sockets["qmp"].makefile("rwb", buffering=0) as monitor,
    ):
        monitor.readline()
        for command in ("qmp_capabilities", "quit"):
            monitor.write(json.dumps({"execute": command}).encode() + b"\n")
            monitor.readline()


def raw_tiny(plan: MachinePlan) -> None:
    """Wait for the agent, run one command, kill."""
    with raw_machine(plan) as (process, sockets):
        interrupt = PidInterrupt(process.pid)
        channel = AgentChannel([sockets[name] for name in plan.agent_ports], interrupt)
        channel.wait_ready(Deadline.after(120))
        assert channel.run("echo ready", deadline=Deadline.after(60)).stdout == "ready\n"
        process.kill()
        process.wait()
        channel.close()
        interrupt.close()


def use_bare(_vm: VM) -> None:
    """Do nothing: being up is all."""


def use_tiny(vm: VM) -> None:
    """Run the first command."""
    assert vm.run("echo ready").stdout == "ready\n"


KINDS: dict[str, tuple[Callable[[MachinePlan], None], Callable[[VM], None], int]] = {
    "bare": (raw_bare, use_bare, 100),
    "tiny": (raw_tiny, use_tiny, 10),
}


def timed(act: Callable[[], object]) -> float:
    """Return how many seconds it takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def measure(kind: str, rounds: int) -> None:
    """Print medians and the ratio for one kind of machine."""
    raw, use, _ = KINDS[kind]
    settings = resolve({"real": True}, {}, {})
    harness = Harness(settings, discover(settings, cache_dir()), cache_dir(), print)
    spec = VMSpec(template=kind, start="cold")

    def ours() -> None:
        vm = harness.create(None, spec, "bench")
        vm.start()
        use(vm)
        vm.delete()

    try:
        first = harness.create("first", spec, "bench")
        first.start()
        pairs = []
        for _ in range(rounds):
            theirs = timed(lambda: raw(first.plan))
            pairs.append((theirs, timed(ours)))
    finally:
        harness.close()
    by_hand, by_us = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(mine / other for other, mine in pairs)
    accelerator = harness.capabilities.accelerator
    print(f"{kind} on {accelerator.name if accelerator else '?'}, {rounds} rounds, medians")
    print(f"  raw script  {by_hand * 1000:7.1f} ms")
    print(f"  harness     {by_us * 1000:7.1f} ms")
    print(f"  ratio       {ratio:7.2f}")


def main() -> None:
    """Measure what the command line names, or everything."""
    kinds = [word for word in sys.argv[1:] if word in KINDS] or list(KINDS)
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    for kind in kinds:
        measure(kind, numbers[0] if numbers else KINDS[kind][2])


if __name__ == "__main__":
    main()
