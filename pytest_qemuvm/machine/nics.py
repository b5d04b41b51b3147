"""The NICs of a running VM, by number or handle, and the recording of what passes through one."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Self

from pytest_qemuvm.devices.nic import backend_of
from pytest_qemuvm.errors import CommandError, QmpDisconnected, SpecError
from pytest_qemuvm.machine.hotdevice import HotDevice
from pytest_qemuvm.spec.devices import NicSpec

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_qemuvm.machine.live import Live


def find_nic(live: Live, nic: HotDevice | int) -> HotDevice:
    """Return a NIC that is plugged: the one that ``hotplug`` gave, or by its number. Raises SpecError."""
    nics = [device for device in live.hotplug.devices if isinstance(device.spec, NicSpec)]
    if isinstance(nic, HotDevice) and nic in nics:
        return nic
    if isinstance(nic, int) and not isinstance(nic, bool) and 0 <= nic < len(nics):
        return nics[nic]
    known = ", ".join(device.id for device in nics) or "none"
    raise SpecError(f"VM {live.plan.name!r} has no NIC {nic!r}; it has {known}")


class NicCapture:
    """What passes through a NIC, both ways, being written to a pcap file by QEMU."""

    def __init__(self, live: Live, nic: HotDevice, path: Path) -> None:
        self.path = path
        self._live = live
        number = next(live.numbers)
        self._id = f"{nic.id}-dump{number}"
        live.own_objects.add(self._id)
        wanted = {"qom-type": "filter-dump", "id": self._id, "netdev": backend_of(nic.id), "file": str(path)}
        try:
            live.qmp.execute("object-add", wanted)
        except BaseException as error:
            live.own_objects.discard(self._id)
            if isinstance(error, CommandError):
                raise SpecError(f"QEMU cannot write what passes {nic.id!r} to {path}", error.desc) from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, _error: object, _traceback: object) -> None:
        self.close()

    def close(self) -> None:
        """End it; the file has every frame until then. Idempotent."""
        if self._id in self._live.own_objects:
            # With its NIC it has gone by itself.
            with suppress(CommandError, QmpDisconnected):
                self._live.qmp.execute("object-del", {"id": self._id})
            self._live.own_objects.discard(self._id)
