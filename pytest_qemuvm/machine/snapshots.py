"""Snapshots of a running machine: its memory and its disks together, kept by QEMU until the run ends.

QEMU writes the memory behind a disk's content, so it needs a qcow2 image to write it to. The machine's disks
are not for that: they outlive it, and would grow by its memory. So there is one image for it, made with the
first snapshot.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_qemuvm.devices.disk import format_node
from pytest_qemuvm.devices.steps import AddBlockNode
from pytest_qemuvm.errors import (
    CannotSave,
    CommandError,
    JobFailed,
    SnapshotExists,
    SnapshotNotFound,
    nearest,
)
from pytest_qemuvm.machine.backends import remove
from pytest_qemuvm.machine.saving import capabilities
from pytest_qemuvm.plan import ImagePlan
from pytest_qemuvm.spec.devices import DiskSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pytest_qemuvm.guest.port import PortState
    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.host.provision import Provisioner
    from pytest_qemuvm.machine.hotdevice import HotDevice
    from pytest_qemuvm.machine.inventory import Inventory
    from pytest_qemuvm.machine.live import Live

_NODE = "snapshots"
_SIZE = 64 * 1024
"""Bytes that a guest would see of an image that none ever sees."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a machine was at one moment; QEMU has its memory and the content of its disks."""

    name: str
    tag: str
    """Its name in the images, which no other snapshot of any machine has."""
    nodes: tuple[str, ...]
    """The block nodes whose content it holds."""
    inventory: Inventory
    ports: tuple[PortState, ...]
    """What was agreed with the guest's agent."""
    state: str
    """``running`` or ``paused``."""


class Snapshots:
    """The snapshots of one run of a VM."""

    def __init__(self, live: Live, run_dir: Path, provisioner: Provisioner) -> None:
        self._live = live
        self._path = run_dir / f"{_NODE}.qcow2"
        self._provisioner = provisioner
        self._known: dict[str, Snapshot] = {}
        self._numbers = itertools.count()
        self._steps: tuple[AddBlockNode, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all, the oldest first."""
        return tuple(self._known)

    @property
    def nodes(self) -> frozenset[str]:
        """The block nodes that are there for them alone."""
        return frozenset(step.node_name for step in self._steps)

    def get(self, name: str) -> Snapshot:
        """Return the snapshot of that name. Raises SnapshotNotFound."""
        if name not in self._known:
            raise SnapshotNotFound(
                f"VM {self._live.plan.name!r} has no snapshot {name!r} in this run",
                hint=nearest(name, self._known) if self._known else "snapshots end with the run",
            )
        return self._known[name]

    def check_free(self, name: str) -> None:
        """Raise SnapshotExists for a name that is taken."""
        if name in self._known:
            raise SnapshotExists(
                f"VM {self._live.plan.name!r} has a snapshot {name!r} already",
                hint="delete_snapshot() frees the name",
            )

    def save(
        self, name: str, inventory: Inventory, ports: tuple[PortState, ...], state: str, deadline: Deadline
    ) -> None:
        """Make a snapshot; the machine stands still meanwhile, and goes on.

        Raises CannotSave, with QEMU's reason, where it has something that cannot be saved.
        """
        nodes = _written_nodes(inventory.ledger.devices)
        self._make_room(deadline)
        # No two machines that have the same disk, one after the other, may use the same tag.
        tag = f"{self._live.process.pid}-{self._live.process.ticks}-{next(self._numbers)}"
        snapshot = Snapshot(name, tag, (self._top, *nodes), inventory, ports, state)
        self._live.qmp.execute("migrate-set-capabilities", capabilities(whole=True), timeout=deadline)
        try:
            self._run("snapshot-save", snapshot, deadline)
        except (CommandError, JobFailed) as error:
            why = error.desc if isinstance(error, CommandError) else error.error
            raise CannotSave(f"QEMU cannot save VM {self._live.plan.name!r}: {why}", why) from error
        self._known[name] = snapshot
        self._note_needed()

    def load(self, snapshot: Snapshot, deadline: Deadline) -> None:
        """Have memory and disks be what they were. The machine stands still, before and after."""
        self._live.qmp.execute("migrate-set-capabilities", capabilities(whole=True), timeout=deadline)
        self._run("snapshot-load", snapshot, deadline)

    def delete(self, name: str, deadline: Deadline) -> None:
        """Delete a snapshot. Raises SnapshotNotFound."""
        snapshot = self.get(name)
        present = self._live.qmp.execute("query-named-block-nodes", {"flat": True})
        nodes = {node["node-name"] for node in present}.intersection(snapshot.nodes)
        arguments = {"tag": snapshot.tag, "devices": sorted(nodes)}
        self._job("snapshot-delete", arguments, deadline)
        del self._known[name]
        self._note_needed()

    def _run(self, command: str, snapshot: Snapshot, deadline: Deadline) -> None:
        arguments = {"tag": snapshot.tag, "vmstate": self._top, "devices": list(snapshot.nodes)}
        self._job(command, arguments, deadline)

    def _job(self, command: str, arguments: Mapping[str, object], deadline: Deadline) -> None:
        qmp = self._live.qmp
        job = f"{_NODE}-{next(self._numbers)}"
        qmp.execute(command, {"job-id": job, **arguments}, timeout=deadline)
        qmp.job(job, timeout=deadline)

    @property
    def _top(self) -> str:
        return self._steps[-1].node_name

    def _make_room(self, deadline: Deadline) -> None:
        """Make the image that memory is written to, once."""
        if self._steps:
            return
        # It lives no longer than the process: nothing of it has to survive a power cut.
        properties = {"filename": str(self._path), "cache": {"no-flush": True}}
        steps = (
            AddBlockNode("file", f"{_NODE}-file", properties),
            AddBlockNode("qcow2", f"{_NODE}-fmt", {"file": f"{_NODE}-file"}),
        )
        with ExitStack() as stack:
            self._provisioner.make_image(ImagePlan(str(self._path), "qcow2", _SIZE), stack)
            undo = stack.enter_context(ExitStack())
            for step in steps:
                undo.callback(remove, self._live.qmp, step.unplug())
                command = step.plug()
                self._live.qmp.execute(command.name, dict(command.arguments), timeout=deadline)
            undo.pop_all()  # QEMU takes them along when it ends
            self._live.on_close(stack.pop_all().close)
        self._steps = steps

    def _note_needed(self) -> None:
        """Have the images stay that snapshots rest on."""
        self._live.hotplug.supplier.needed = {
            path
            for snapshot in self._known.values()
            for placed in snapshot.inventory.placed
            if (path := placed.device.path) is not None and placed.device.supplies.image is not None
        }


def _written_nodes(devices: Iterable[HotDevice]) -> tuple[str, ...]:
    """Return the nodes of the disks that a guest can write to. Raises CannotSave for a raw image."""
    nodes = []
    for device in devices:
        image = device.supplies.image
        if image is None or not isinstance(device.spec, DiskSpec) or device.spec.read_only:
            continue
        if image.format != "qcow2":
            raise CannotSave(
                f"disk {device.id!r} is a {image.format} image, which can hold no snapshot",
                image.path,
                "use format='qcow2', or read_only=True",
            )
        nodes.append(format_node(device.id))
    return tuple(nodes)
