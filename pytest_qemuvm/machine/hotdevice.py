"""Handles of plugged devices: what all have in common, and what drives and resizable memory have besides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from pytest_qemuvm.devices.cdrom import medium
from pytest_qemuvm.devices.steps import Command
from pytest_qemuvm.errors import (
    CommandError,
    DiskStateError,
    NotAttached,
    QmpTimeout,
    SpecError,
    WaitTimeout,
    end_with,
)
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.backends import remove
from pytest_qemuvm.spec.devices import CdromSpec, MemorySpec, medium_path, memory_blocks

if TYPE_CHECKING:
    import os

    from pytest_qemuvm.devices.kind import DeviceKind, Supplies
    from pytest_qemuvm.devices.steps import Fragment
    from pytest_qemuvm.machine.uses import Uses
    from pytest_qemuvm.qmp import Qmp
    from pytest_qemuvm.spec.devices import DeviceSpec

UNPLUG_SECONDS = 30.0
RESIZE_SECONDS = 30.0


class Engine(Protocol):
    """What a handle needs of the engine that plugged it."""

    uses: Uses

    @property
    def alive(self) -> bool:
        """True while the machine runs."""

    @property
    def has_guest(self) -> bool:
        """True where there is a guest to act on what it is told."""

    @property
    def qmp(self) -> Qmp:
        """The machine's monitor."""
        ...

    @property
    def since(self) -> int:
        """The number of the last event before the present life of the machine."""
        ...

    def unplug(self, device: HotDevice, deadline: Deadline) -> None:
        """Unplug a device."""


class HotDevice:
    """A device that was plugged into a running machine. As a context manager it is unplugged on leaving."""

    def __init__(
        self, engine: Engine, kind: DeviceKind, spec: DeviceSpec, supplies: Supplies, fragment: Fragment
    ) -> None:
        self.kind = kind
        self.spec = spec
        self.supplies = supplies
        self.fragment = fragment
        self.plugged = False
        """True from the end of a plug until the device has gone."""
        self.owner: str | None = None
        """The test, module or session that plugged it; None for what the VM was started with."""
        self.pending: tuple[Command, ...] = ()
        """What would remove what is left behind the device when it has gone, in order."""
        self._engine = engine

    def __repr__(self) -> str:
        state = (
            "plugged" if self.present else f"gone, but for {', '.join(self.left)}" if self.left else "gone"
        )
        return f"<{type(self).__name__} {self.id!r}: {self.spec}; {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if not (self.present or self.left):
            return
        end_with(self.unplug, error, f"besides, {self.id!r} could not be unplugged")

    @property
    def id(self) -> str:
        """Its id in QEMU, unique for the life of the VM."""
        return self.supplies.place.id

    @property
    def present(self) -> bool:
        """True while it is plugged and its machine runs."""
        return self.plugged and self._engine.alive

    @property
    def left(self) -> tuple[str, ...]:
        """Names of what QEMU still has of it although the device has gone, after an UnplugIncomplete."""
        return tuple(command.subject for command in self.pending) if self._engine.alive else ()

    @property
    def mac(self) -> str | None:
        """The address of a NIC."""
        return self.supplies.mac

    @property
    def ip(self) -> str | None:
        """The IP address that a NIC was given in its network; None where it was given none."""
        return self.supplies.link.ip if self.supplies.link is not None else None

    @property
    def path(self) -> Path | None:
        """The unix socket behind a serial port, or the image behind a disk."""
        if self.supplies.image is not None:
            return Path(self.supplies.image.path)
        return Path(self.supplies.path) if self.supplies.path else None

    def unplug(self, timeout: float = UNPLUG_SECONDS) -> None:
        """Unplug it and return when it is gone, backends included; ``timeout`` in seconds.

        Raises NotAttached if it is gone already; UnplugRejected where the guest or QEMU refuses, and
        UnplugTimeout where the guest does not answer: it is still plugged then; UnplugIncomplete where the
        device goes and QEMU does not let go what was behind it: the next call tries that again. Raises
        ImageModified, after all is gone, where an image of yours that it was on is not what it was.
        """
        self._engine.unplug(self, Deadline.after(timeout))

    def wait_gone(self, timeout: float = UNPLUG_SECONDS) -> None:
        """Wait until somebody else's unplug, the guest's own for example, has taken it away.

        ``timeout`` is in seconds. Raises WaitTimeout.
        """
        qmp = self._engine.qmp
        deadline = Deadline.after(timeout)
        # Asked first, so that an event between the two is not missed.
        wait = qmp.events.wait("DEVICE_DELETED", {"device": self.id}, since=self._engine.since)
        try:
            wait.result(deadline.remaining)
        except TimeoutError:
            raise WaitTimeout(
                f"{self.id!r} is still plugged after {timeout:g} s",
                waited_for=f"DEVICE_DELETED for {self.id!r}",
                seconds=timeout,
            ) from None
        finally:
            qmp.events.forget(wait)

    def _living_qmp(self) -> Qmp:
        if not self.present:
            raise NotAttached(f"{self.id!r} is not plugged in any more")
        return self._engine.qmp


class Cdrom(HotDevice):
    """A CD drive, whose medium can be changed."""

    _media = 0
    _nodes: tuple[str, ...] | None = None
    _medium: Path | None = None
    _was_changed = False

    @property
    def medium(self) -> Path | None:
        """What is in it; None: nothing."""
        if self._was_changed or not isinstance(self.spec, CdromSpec) or self.spec.path is None:
            return self._medium
        return Path(self.spec.path)

    def change_medium(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Put another medium in; what is in the drive is taken out first.

        Raises SpecError where there is no such file, DiskStateError where the guest has locked the tray (it
        has mounted the medium) and ``force`` does not override it.
        """
        path = medium_path(path)
        self.eject(force=force)
        qmp = self._living_qmp()
        self._engine.uses.begin_medium(self.id, path)
        self._media += 1
        nodes = medium(path, f"{self.id}-m{self._media}")
        for step in nodes:
            # Noted before it is there, so that whatever goes wrong it is removed with the next eject.
            self._nodes = (step.node_name, *self.medium_nodes())
            command = step.plug()
            qmp.execute(command.name, dict(command.arguments))
        qmp.execute("blockdev-insert-medium", {"id": self.id, "node-name": nodes[-1].node_name})
        self._medium = path
        qmp.execute("blockdev-close-tray", {"id": self.id})

    def eject(self, *, force: bool = False) -> None:
        """Open the tray and take the medium out, if there is one. Raises DiskStateError, see above."""
        qmp = self._living_qmp()
        qmp.execute("blockdev-open-tray", {"id": self.id, "force": force})
        (drive,) = (entry for entry in qmp.execute("query-block") if entry["qdev"] == self.id)
        if not drive.get("tray_open", True):
            # A locked tray is no error to QEMU: it asks the guest, and answers before the guest has.
            raise DiskStateError(
                f"the guest has locked the tray of {self.id!r}", hint="unmount the medium, or use force=True"
            )
        if "inserted" in drive:
            qmp.execute("blockdev-remove-medium", {"id": self.id})
        self._medium, self._was_changed = None, True
        for command in self.medium_removal():
            try:
                remove(qmp, command)
            except CommandError as error:
                raise DiskStateError(
                    f"the medium is out of {self.id!r}, and QEMU did not remove its {command.subject!r}: "
                    f"{error.desc}",
                    error.details,
                    "release it from whatever uses it, then eject() again",
                ) from error
            self._nodes = self.medium_nodes()[1:]
        self._engine.uses.end(self.id)

    def replugged(self) -> None:
        """Note that it has been plugged again as its spec says."""
        self._medium, self._was_changed, self._nodes = None, False, None

    def medium_removal(self) -> tuple[Command, ...]:
        """Return what removes the block nodes of the medium, the upper one first."""
        return tuple(Command("blockdev-del", {"node-name": node}) for node in self.medium_nodes())

    def medium_nodes(self) -> tuple[str, ...]:
        """Return the block nodes of the medium, the upper one first."""
        if self._nodes is None:
            has_medium = isinstance(self.spec, CdromSpec) and self.spec.path is not None
            self._nodes = (f"{self.id}-fmt", f"{self.id}-file") if has_medium else ()
        return self._nodes


class ResizableMemory(HotDevice):
    """A virtio-mem device: memory of which the guest gets more or less while it runs."""

    def resize(self, size: int | str, timeout: float = RESIZE_SECONDS) -> None:
        """Give the guest so much of it, at most its spec's size, and wait until the guest has followed.

        ``size`` is a multiple of 128 MiB, or 0. Raises SpecError, and WaitTimeout where the guest does not
        follow.
        """
        assert isinstance(self.spec, MemorySpec)
        wanted = 0 if size == 0 else memory_blocks(size)
        if wanted > self.spec.bytes:
            raise SpecError(f"{size!r} is more than the {self.spec.bytes} bytes that {self.id!r} has")
        qmp = self._living_qmp()
        deadline = Deadline.after(timeout)
        since = qmp.events.last
        place = f"/machine/peripheral/{self.id}"
        try:
            qmp.execute("qom-set", {"path": place, "property": "requested-size", "value": wanted})
        except CommandError as error:
            raise SpecError(f"QEMU refused to resize {self.id!r}: {error.desc}", error.details) from error
        if (
            not self._engine.has_guest
            or qmp.execute("qom-get", {"path": place, "property": "size"}) == wanted
        ):
            return
        try:
            qmp.wait_event(
                "MEMORY_DEVICE_SIZE_CHANGE", {"id": self.id, "size": wanted}, since=since, timeout=deadline
            )
        except QmpTimeout as error:
            raise WaitTimeout(
                f"the guest did not resize {self.id!r} to {wanted} bytes within {timeout:g} s",
                error.details,
                waited_for=f"the size of {self.id!r}",
                seconds=timeout,
            ) from error

    def fill(self, timeout: float) -> None:
        """Give the guest all of it."""
        assert isinstance(self.spec, MemorySpec)
        self.resize(self.spec.bytes, timeout)


def handle_for(spec: DeviceSpec) -> type[HotDevice]:
    """Return the class of the handle for a spec."""
    if isinstance(spec, CdromSpec):
        return Cdrom
    if isinstance(spec, MemorySpec) and spec.kind == "virtio-mem":
        return ResizableMemory
    return HotDevice
