"""How devices leave: at once, or when the guest has let them go."""

from __future__ import annotations

from pytest_qemuvm.sim.words import QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_qemuvm.sim.devices import Device
    from pytest_qemuvm.sim.machine import Machine

_RECLAIM_MS = 5
"""QEMU tells of a device's end when its memory is given back, which is a little after the reply."""
_REFUSED = 130
_AT_ONCE = frozenset({"SCSI", "usb-bus", "virtio-serial-bus"})


class Hotplug:
    """The unplugs of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def request(self, name: str) -> None:
        """Do what ``device_del`` does. Raises QmpRefusal."""
        device = self._find(name)
        bus = device.bus
        if bus is not None and not bus.hotplug:
            raise QmpRefusal(f"Bus '{bus.name}' does not support hotplugging")
        if bus is None and not device.driver.endswith("-cpu") and device.driver not in {"pc-dimm", "nvdimm"}:
            raise QmpRefusal(f"Device '{device.driver}' does not support hotplugging")
        if device.driver == "virtio-mem-pci" and self._machine.version < (8, 1):
            raise QmpRefusal("virtio based memory devices cannot be unplugged.")
        module = self._machine.modules.get(device.path)
        if device.driver == "virtio-mem-pci" and module is not None and module.requested:
            raise QmpRefusal("virtio-mem device cannot get unplugged while 'requested-size' != '0'")
        if bus is not None and bus.kind in _AT_ONCE:
            self.remove(device)
            return
        device.leaving = True
        guest = self._machine.guest
        if guest.model == "cooperative" and not self._machine.faults.refuses(device.id or ""):
            self._machine.loop.later(guest.after_ms, lambda: self._let_go(device))
        elif guest.model == "refusing" or self._machine.faults.refuses(device.id or ""):
            self._machine.loop.later(guest.after_ms, lambda: self._refuse(device))

    def _find(self, name: str) -> Device:
        for device in self._machine.devices.all():
            if name in {device.id, device.path}:
                return device
        raise QmpRefusal(f"Device '{name}' not found", "DeviceNotFound")

    def _let_go(self, device: Device) -> None:
        if device.leaving and device in self._machine.devices.all() and self._machine.runstate.running:
            self.remove(device)

    def _refuse(self, device: Device) -> None:
        if not device.leaving or device not in self._machine.devices.all():
            return
        device.leaving = False
        if device.driver == "pc-dimm":
            slot = str(device.value_of("slot"))
            info = {"device": device.id, "source": 3, "status": _REFUSED, "slot": slot, "slot-type": "DIMM"}
            self._machine.emit("ACPI_DEVICE_OST", {"info": info})
        else:
            self._machine.emit("DEVICE_UNPLUG_GUEST_ERROR", {"device": device.id, "path": device.path})

    def remove(self, device: Device) -> None:
        """Take a device away; the events come a little later."""
        told = self._machine.devices.remove(device)

        def tell() -> None:
            for data in told:
                self._machine.emit("DEVICE_DELETED", data)

        self._machine.loop.later(_RECLAIM_MS, tell)

    def _leaving(self, selector: int) -> list[Device]:
        return [
            device
            for bus in self._machine.devices.buses
            if bus.selector == selector
            for device in bus.children
            if device.leaving
        ]

    def pending(self, selector: int) -> int:
        """Return the slots, as bits, of a bus on which devices wait for the guest."""
        mask = 0
        for device in self._leaving(selector):
            mask |= 1 << ((device.devfn or 0) >> 3)
        return mask

    def eject(self, selector: int, mask: int) -> None:
        """Let go the devices in these slots of a bus: the lowest one only, as QEMU does."""
        slot = (mask & -mask).bit_length() - 1
        for device in self._leaving(selector):
            if (device.devfn or 0) >> 3 == slot and not self._machine.faults.refuses(device.id or ""):
                self.remove(device)

    def reset(self) -> None:
        """Let go what waits for the guest on a PCI bus: it is gone when the machine begins anew."""
        for bus in list(self._machine.devices.buses):
            if bus.selector is not None:
                for device in [child for child in bus.children if child.leaving]:
                    self.remove(device)
