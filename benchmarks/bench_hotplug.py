"""A plug and an unplug through the harness, against the same exchange written by hand.

``python benchmarks/bench_hotplug.py [bare|tiny|disks] [rounds]``. Two machines of one command line take
turns in one process, so that a busy host is busy for both: take ratios from it, not milliseconds.

``bare`` is a scsi disk without a guest, ``tiny`` a virtio-blk disk that a Linux guest sees come and go. The
raw script has one socket, no threads and no checks of its own. It says what it must (two ``blockdev-add``,
``device_add``, ``device_del``, the wait for DEVICE_DELETED of that id, two ``blockdev-del``), and it looks:
for the device after the plug, for device and nodes after the unplug, and with ``tiny`` by the same command,
over the same channel, in the guest. Without a look nobody could know that a plug is over, so that belongs
to the exchange; the column "commands only" leaves out the looks of QEMU's graph, for who wants to know what
they cost.

``disks`` is what a new image takes: an empty qcow2, and an overlay on an image.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_machine import PidInterrupt, raw_machine

from pytest_qemuvm.devices.disk import DISK
from pytest_qemuvm.devices.kind import Supplies
from pytest_qemuvm.devices.place import Image, Place
from pytest_qemuvm.guest import waits
from pytest_qemuvm.guest.agent import AgentChannel
from pytest_qemuvm.host.capabilities import discover
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.images import make_image
from pytest_qemuvm.host.paths import cache_dir
from pytest_qemuvm.machine.harness import Harness
from pytest_qemuvm.plan.model import ImagePlan
from pytest_qemuvm.spec.devices import DiskSpec
from pytest_qemuvm.spec.settings import resolve
from pytest_qemuvm.spec.vm import VMSpec

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pytest_qemuvm.spec.devices import DiskBus

BOUND = 1.2
IMAGE_BOUND = 1.0
"""Milliseconds for an overlay."""
SETTLED = "/run/qemuvm/settled"
WARM_UP = 3


class Monitor:
    """The least that can be called a QMP client."""

    def __init__(self, sock: socket.socket) -> None:
        self._lines = sock.makefile("rwb", buffering=-1)
        self._events: list[dict[str, Any]] = []
        self._lines.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command; events that come before its reply are kept."""
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self._lines.flush()
        while "event" in (message := json.loads(self._lines.readline())):
            self._events.append(message)
        return message["return"]

    def await_deleted(self, device: str) -> None:
        """Return at DEVICE_DELETED for that id."""
        while True:
            while self._events:
                event = self._events.pop(0)
                if event["event"] == "DEVICE_DELETED" and event["data"].get("device") == device:
                    return
            self._events.append(json.loads(self._lines.readline()))


class ByHand:
    """One plug and unplug after the other, each with an id of its own."""

    def __init__(self, monitor: Monitor, channel: AgentChannel | None, image: Path, spec: DiskSpec) -> None:
        self._monitor, self._channel, self._spec = monitor, channel, spec
        self._image = Image(str(image), "qcow2")
        self._number = 0

    def round(self, *, looks: bool = True) -> None:
        """Plug and unplug, with or without the looks of QEMU's graph."""
        say = self._monitor.execute
        name = f"hand{self._number}"
        self._number += 1
        bus = "scsi.0" if self._spec.bus == "scsi" else f"rp{self._number % 4}"
        port = int(bus.removeprefix("rp")) if bus.startswith("rp") else 0
        facts = {"at": f"/sys/bus/pci/devices/0000:00:10.{port}/0000:*"}
        supplies = Supplies(Place(name, bus), self._image, facts=facts)
        fragment = DISK.fragment(self._spec, supplies)
        assert DISK.seen is not None
        seen = DISK.seen(self._spec, supplies)
        for command in fragment.plug():
            say(command.name, **command.arguments)
        if looks:
            assert name in {entry["name"] for entry in say("qom-list", path="/machine/peripheral")}
        self._look_inside(seen)
        say("device_del", id=name)
        self._monitor.await_deleted(name)
        for command in fragment.unplug()[1:]:
            say(command.name, **command.arguments)
        if looks:
            assert name not in {entry["name"] for entry in say("qom-list", path="/machine/peripheral")}
            nodes = {node["node-name"] for node in say("query-named-block-nodes", flat=True)}
            assert not {f"{name}-file", f"{name}-fmt"} & nodes
        self._look_inside(f"! ( {seen} )")

    def _look_inside(self, command: str) -> None:
        if self._channel is not None:
            waits.until_succeeds(self._channel, command, Deadline.after(60), interval=0.01)


def timed(act: Callable[[], object]) -> float:
    """Return how many seconds it takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def plugs(template: str, bus: DiskBus, rounds: int) -> None:
    """Print medians and ratio of plug and unplug on one template."""
    settings = resolve({"real": True}, {}, {})
    harness = Harness(settings, discover(settings, cache_dir()), cache_dir(), print)
    try:
        ours = harness.create(None, VMSpec(template=template), "bench")
        ours.start()
        theirs = harness.create(None, VMSpec(template=template), "bench")
        theirs.start()  # for its files: the process is replaced by one that only the script knows
        theirs.stop()
        disk = harness.create_disk(DiskSpec("64M"), "ours", "bench")
        image = harness.create_disk(DiskSpec("64M"), "theirs", "bench").path
        spec = DiskSpec("64M", bus=bus, serial="theirs")

        def by_us() -> None:
            ours.attach(disk, bus=bus)
            ours.detach(disk)

        with raw_machine(theirs.plan) as (process, sockets):
            interrupt, channel = PidInterrupt(process.pid), None
            if theirs.plan.agent_ports:
                channel = AgentChannel([sockets[name] for name in theirs.plan.agent_ports], interrupt)
                channel.wait_ready(Deadline.after(120))
                waits.for_file(channel, SETTLED, Deadline.after(60))
            hand = ByHand(Monitor(sockets["qmp"]), channel, image, spec)
            try:
                rows = []
                for number in range(-WARM_UP, rounds):
                    row = (
                        timed(lambda: hand.round(looks=False)),
                        timed(hand.round),
                        timed(by_us),
                    )
                    if number >= 0:
                        rows.append(row)
            finally:
                process.kill()
                process.wait()
                if channel is not None:
                    channel.close()
                interrupt.close()
    finally:
        harness.close()
    least, looked, through_us = (statistics.median(column) * 1000 for column in zip(*rows, strict=True))
    ratio = statistics.median(row[2] / row[1] for row in rows)
    print(f"{bus} disk on {template}, {rounds} rounds of plug and unplug, medians")
    print(f"  raw script, commands only  {least:8.2f} ms")
    print(f"  raw script                 {looked:8.2f} ms")
    print(f"  harness                    {through_us:8.2f} ms")
    print(f"  ratio {ratio:.2f}, at most {BOUND} wanted")


def images(rounds: int) -> None:
    """Print what a new image takes."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        base = ImagePlan(str(directory / "base"), "qcow2", 1024**3)
        make_image(base, directory / "base")
        empty = ImagePlan("", "qcow2", 1024**3)
        overlay = replace(empty, size=None, backing=base.path, backing_format="qcow2")
        for plan, what in ((empty, "empty qcow2"), (overlay, "overlay")):
            paths = [directory / f"{what}{number}" for number in range(rounds)]
            seconds = [timed(lambda path=path, plan=plan: make_image(plan, path)) for path in paths]
            print(f"{what}: {statistics.median(seconds) * 1000:.3f} ms, at most {IMAGE_BOUND} wanted")
    settings = resolve({"real": True}, {}, {})
    harness = Harness(settings, discover(settings, cache_dir()), cache_dir(), print)
    try:
        seconds = [timed(lambda: harness.create_disk(DiskSpec("64M"), None, "bench")) for _ in range(rounds)]
    finally:
        harness.close()
    print(f"disk_factory: {statistics.median(seconds) * 1000:.3f} ms")


def main() -> None:
    """Measure what the command line names, or everything."""
    chosen = [word for word in sys.argv[1:] if not word.isdigit()] or ["bare", "tiny", "disks"]
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    if "bare" in chosen:
        plugs("bare", "scsi", numbers[0] if numbers else 300)
    if "tiny" in chosen:
        plugs("tiny", "virtio", numbers[0] if numbers else 30)
    if "disks" in chosen:
        images(numbers[0] if numbers else 500)


if __name__ == "__main__":
    main()
