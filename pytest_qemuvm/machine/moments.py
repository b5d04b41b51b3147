"""Moments of a VM's run: kept, gone back to, and gone on from twice."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import CannotSave, QemuVMError, QmpDisconnected, RestoreFailed, VMStateError
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.duplicate import duplicate
from pytest_qemuvm.machine.inventory import WayBack, take_inventory
from pytest_qemuvm.machine.lifecycle import Lifecycle
from pytest_qemuvm.spec.names import checked_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_qemuvm.guest.agent import Hold
    from pytest_qemuvm.machine.live import Live
    from pytest_qemuvm.machine.snapshots import Snapshot
    from pytest_qemuvm.machine.vm import VM

SNAPSHOT_SECONDS = 60.0
"""How long a snapshot, or the way back to one, may take; about 0.2 s for a guest of 256 MiB."""


class Moments(Lifecycle):
    """Snapshots of a VM, and clones of it as it is now."""

    @property
    def snapshots(self) -> tuple[str, ...]:
        """The names of the snapshots of this run, the oldest first."""
        return self._live.snapshots.names if self._live is not None and self._live.alive else ()

    def snapshot(self, name: str, *, timeout: float = SNAPSHOT_SECONDS) -> None:
        """Keep memory and disks together, as they are now, under a name; the machine runs on.

        Commands that other threads have under way in the guest are waited for. Snapshots last until QEMU
        ends. ``timeout`` is in seconds. Raises SpecError for what is no name, SnapshotExists, NotRunning,
        CannotSave where QEMU cannot save one of its devices, VMStateError where the guest is past being
        saved, and WaitTimeout.
        """
        checked_name(name, "snapshot")
        self._services.provisioner.executables.require_guest("memory that could be saved")
        deadline = Deadline.after(timeout)
        with self._change("snapshot"):
            live = self._running()
            live.snapshots.check_free(name)
            _check_savable(live)
            state = self._standing()
            with live.hotplug.turn(deadline):
                if state == "running":
                    live.hotplug.await_settled(deadline)
                with _held(live, deadline) as hold:
                    inventory = take_inventory(live, self._services.wardens.disks())
                    live.snapshots.save(name, inventory, hold.states if hold else (), state, deadline)
            self._recorder.switched(live, state)

    def restore(self, name: str, *, timeout: float = SNAPSHOT_SECONDS) -> None:
        """Go back to a snapshot, memory and disks together, in place: QEMU and its monitors stay.

        The guest goes on from there with the right time and new entropy, also one that has panicked since.
        What was plugged since is taken away, what was unplugged since is plugged again: ``devices`` are those
        of the snapshot. ``timeout`` is in seconds. Raises SnapshotNotFound, NotRunning, WaitTimeout;
        AlreadyAttached and DiskStateError where a disk that it needs is elsewhere or gone, UnplugRejected and
        UnplugTimeout where the guest keeps a processor or memory, all before the machine is stopped; and
        RestoreFailed where QEMU could not do it.
        """
        deadline = Deadline.after(timeout)
        with self._change("restore"):
            live = self._running()
            snapshot = live.snapshots.get(name)
            way = WayBack(self._as_vm(), live, snapshot.inventory, self._services.wardens.disks)
            way.unplug_what_a_guest_must_let_go(deadline)
            with way.held(deadline), live.hotplug.turn(deadline), _held(live, deadline) as hold:
                self._earlier_panic = self.unseen_panic
                self._go_back(live, snapshot, way, deadline)
                live.begin_anew()
                way.arrived()
                if hold is not None:
                    hold.return_to(snapshot.ports)
                live.renewal_due = snapshot.state != "running"
                if snapshot.state == "running":
                    live.qmp.execute("cont", timeout=deadline)
                elif self.state != "paused":
                    # QEMU loads a state, and goes on calling the machine panicked until it has run.
                    live.qmp.execute("cont", timeout=deadline)
                    live.qmp.execute("stop", timeout=deadline)
            if snapshot.state == "running":
                live.renew(deadline)
            self._recorder.switched(live, snapshot.state)

    def delete_snapshot(self, name: str, *, timeout: float = SNAPSHOT_SECONDS) -> None:
        """Delete a snapshot; its name is free again. Raises SnapshotNotFound and NotRunning."""
        with self._change("delete a snapshot of"):
            self._running().snapshots.delete(name, Deadline.after(timeout))

    def clone(self, name: str | None = None, *, timeout: float = SNAPSHOT_SECONDS) -> VM:
        """Return another VM that goes on from this one's present state; this one runs on as well.

        It has a copy of the memory and of every disk that this one can write to, the same devices in the same
        places, those that were plugged included, and a name, addresses, entropy and an identity of its own.
        It belongs to the test, module or session that asks for it. ``timeout`` is in seconds. Raises
        SpecError and VMStateError for a name as ``vm_factory`` does, NotRunning, VMStateError where it does
        not run, CannotSave where QEMU cannot save one of its devices, GuestBootError and WaitTimeout.
        """
        self._services.provisioner.executables.require_guest("memory that could be saved")
        deadline = Deadline.after(timeout)
        with self._change("clone"):
            live = self._running()
            live.check_running()
            _check_savable(live)
            return duplicate(self._as_vm(), live, name, self._services, deadline)

    # How it is done

    def _as_vm(self) -> VM:
        from pytest_qemuvm.machine.vm import VM  # noqa: PLC0415  # it is made of this

        assert isinstance(self, VM)
        return self

    def _standing(self) -> str:
        """Return ``running`` or ``paused``. Raises VMStateError for any other state."""
        live = self._running()
        if live.interrupt.raised:
            raise live.interrupt.error()
        state = self.state
        if state not in ("running", "paused"):
            raise VMStateError(f"VM {self.name!r} is {state}: no snapshot of that can be gone on from")
        return state

    def _go_back(self, live: Live, snapshot: Snapshot, way: WayBack, deadline: Deadline) -> None:
        live.qmp.execute("stop", timeout=deadline)
        try:
            way.go(deadline)
            live.snapshots.load(snapshot, deadline)
            self._services.networks.went_back(self.name)
        except QmpDisconnected:
            raise
        except QemuVMError as error:
            self._recorder.switched(live, "paused")
            raise RestoreFailed(
                f"VM {self.name!r} could not go back to {snapshot.name!r}: {error.brief}",
                error.details,
                "it stands still; restart() or delete() it",
            ) from error


def _check_savable(live: Live) -> None:
    """Raise CannotSave where a disk has a volatile cache: its log tells of the way here, and of no other.

    Raise VMStateError where QEMU would end of it, for the loss of a processor.
    """
    live.hotplug.processors.check_sound("be saved")
    if live.plan.caches:
        raise CannotSave(
            f"disk {live.plan.caches[0].id!r} of VM {live.plan.name!r} has a volatile cache",
            "its writes are noted from the start of the machine on, in their order",
            "leave volatile_cache=True out where snapshots or clones are made",
        )


@contextmanager
def _held(live: Live, deadline: Deadline) -> Iterator[Hold | None]:
    """Hold the channel into the guest, if there is one."""
    if live.channel is None:
        yield None
        return
    with live.channel.held(deadline) as hold:
        yield hold
