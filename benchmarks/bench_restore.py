"""``vm.restore`` in place against QEMU's own snapshot-load by hand.

``python benchmarks/bench_restore.py [rounds]``. Two machines of one command line take turns in one process,
so that a busy host is busy for both: take ratios from it, not milliseconds.

The raw script has one socket, no threads and no checks of its own. It says what it must (``stop``,
``snapshot-load``, the wait for the job's end, ``job-dismiss``, ``cont``), and it ends when the guest's agent
has answered, because a machine whose guest is not heard from is of no use to a test. What the harness does
besides is to look whether the way back is free, and to give the guest the time and new entropy: the column
"with the time" has the script do that too. "load only" ends with the job.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from bench_machine import PidInterrupt, raw_machine

from pytest_qemuvm.guest import waits
from pytest_qemuvm.guest.agent import AgentChannel, Identity
from pytest_qemuvm.host.capabilities import discover
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.images import make_image
from pytest_qemuvm.host.paths import cache_dir
from pytest_qemuvm.machine.harness import Harness
from pytest_qemuvm.plan import ImagePlan
from pytest_qemuvm.spec.devices import DiskSpec
from pytest_qemuvm.spec.settings import resolve
from pytest_qemuvm.spec.vm import VMSpec

if TYPE_CHECKING:
    import socket
    from pathlib import Path

BOUND = 1.3
SETTLED = "/run/qemuvm/settled"
WARM_UP = 2


class ByHand:
    """The least that can go back to a snapshot."""

    def __init__(self, sock: socket.socket, channel: AgentChannel, directory: Path) -> None:
        self._lines = sock.makefile("rwb", buffering=-1)
        self._lines.readline()
        self._channel = channel
        self._events: list[dict[str, Any]] = []
        self._jobs = 0
        self._say("qmp_capabilities")
        path = directory / "by-hand.qcow2"
        make_image(ImagePlan(str(path), "qcow2", 65536), path)
        file = {"driver": "file", "filename": str(path), "cache": {"no-flush": True}}
        self._say("blockdev-add", **{"driver": "qcow2", "node-name": "state", "file": file})
        self._job("snapshot-save")

    def _say(self, command: str, **arguments: Any) -> Any:
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self._lines.flush()
        while "event" in (message := json.loads(self._lines.readline())):
            self._events.append(message)
        return message["return"]

    def _job(self, command: str) -> None:
        self._jobs += 1
        self._events.clear()
        name, devices = f"job{self._jobs}", ["state", "disk0-fmt"]
        self._say(command, **{"job-id": name, "tag": "one", "vmstate": "state", "devices": devices})
        while not any(event.get("data", {}).get("status") == "concluded" for event in self._events):
            self._events.append(json.loads(self._lines.readline()))
        (job,) = self._say("query-jobs")
        assert "error" not in job, job
        self._say("job-dismiss", id=name)

    def restore(self) -> tuple[float, float]:
        """Go back; return when the state was loaded, and when the guest had answered."""
        started = time.perf_counter()
        self._say("stop")
        self._job("snapshot-load")
        loaded = time.perf_counter()
        self._say("cont")
        self._channel.resync(Deadline.after(60))
        return loaded - started, time.perf_counter() - started

    def give_time(self) -> None:
        """Do what keeps a restored guest from living in the past."""
        self._channel.renew(self._channel.boot_id or "", Identity(), Deadline.after(60))


def timed(act: Any) -> float:
    """Return how many seconds it takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def main() -> None:
    """Print medians and the ratio."""
    rounds = int(sys.argv[1]) if sys.argv[1:] else 30
    settings = resolve({"real": True, "start": "cold"}, {}, {})
    harness = Harness(settings, discover(settings, cache_dir()), cache_dir(), print)
    spec = VMSpec(disks=(DiskSpec("64M"),))
    rows = []
    try:
        ours = harness.create(None, spec, "bench")
        ours.start()
        ours.wait_for_file(SETTLED)
        theirs = harness.create(None, spec, "bench")
        theirs.start()  # for its files: the process is replaced by one that only the script knows
        theirs.stop()
        with raw_machine(theirs.plan) as (process, sockets):
            interrupt = PidInterrupt(process.pid)
            channel = AgentChannel([sockets[name] for name in theirs.plan.agent_ports], interrupt)
            channel.wait_ready(Deadline.after(120))
            waits.for_file(channel, SETTLED, Deadline.after(60))
            try:
                hand = ByHand(sockets["qmp"], channel, theirs.run_dir)
                ours.snapshot("one")
                for number in range(-WARM_UP, rounds):
                    loaded, answered = hand.restore()
                    more = timed(hand.give_time)
                    row = (loaded, answered, answered + more, timed(lambda: ours.restore("one")))
                    if number >= 0:
                        rows.append(row)
            finally:
                process.kill()
                process.wait()
                channel.close()
                interrupt.close()
    finally:
        harness.close()
    load, answer, whole, restore = (statistics.median(column) * 1000 for column in zip(*rows, strict=True))
    print(f"restore in place, {rounds} rounds, medians")
    print(f"  raw script, load only              {load:8.1f} ms")
    print(f"  raw script, until an answer        {answer:8.1f} ms")
    print(f"  raw script, with the time          {whole:8.1f} ms")
    print(f"  harness                            {restore:8.1f} ms")
    ratios = [statistics.median(row[3] / row[number] for row in rows) for number in range(3)]
    print(
        f"  ratio to these {ratios[0]:.2f}, {ratios[1]:.2f}, {ratios[2]:.2f}; "
        f"at most {BOUND} wanted of the second"
    )


if __name__ == "__main__":
    main()
