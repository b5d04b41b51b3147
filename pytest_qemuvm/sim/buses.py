"""Buses: what may sit on which, and where on it."""

from __future__ import annotations

from pytest_qemuvm.sim.words import QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_qemuvm.sim.devices import Device

PCI_SLOTS = 32
MACHINE_BUSES: dict[str, tuple[tuple[str, str, str, bool], ...]] = {
    "q35": (
        ("main-system-bus", "System", "/machine/unattached/sysbus", False),
        ("pcie.0", "PCIE", "/machine/q35/pcie.0", False),
        ("isa.0", "ISA", "/machine/unattached/device[2]/isa.0", False),
        ("i2c", "i2c-bus", "/machine/unattached/device[20]/i2c", False),
    ),
    "pc": (
        ("main-system-bus", "System", "/machine/unattached/sysbus", False),
        ("pci.0", "PCI", "/machine/i440fx/pci.0", True),
        ("isa.0", "ISA", "/machine/unattached/device[4]/isa.0", False),
        ("ide.0", "IDE", "/machine/unattached/device[19]/ide.0", False),
        ("ide.1", "IDE", "/machine/unattached/device[19]/ide.1", False),
        ("i2c", "i2c-bus", "/machine/unattached/device[24]/i2c", False),
    ),
    "microvm": (
        ("main-system-bus", "System", "/machine/unattached/sysbus", False),
        *(
            (f"virtio-mmio-bus.{number}", "virtio-mmio-bus", f"/machine/virtio-mmio-bus.{number}", False)
            for number in reversed(range(24))
        ),
        ("isa.0", "ISA", "/machine/unattached/device[1]/isa.0", False),
    ),
}
"""Name, type, path and whether devices may come while the machine runs, of each bus that a machine has."""
TAKEN_SLOTS = {"q35": (0x00, 0x1F), "pc": (0x00, 0x01)}
"""Slots of the root bus that the chipset has."""


_CHIPS = {
    ("pcie.0", 0x00): "mch",
    ("pcie.0", 0xF8): "ICH9-LPC",
    ("pcie.0", 0xFA): "ich9-ahci",
    ("pcie.0", 0xFB): "ICH9-SMB",
    ("pci.0", 0x00): "i440FX",
    ("pci.0", 0x08): "PIIX3",
    ("pci.0", 0x09): "piix3-ide",
    ("pci.0", 0x0B): "PIIX4_PM",
}
"""What the chipset has where, as QEMU names it."""


class Bus:
    """A bus of the machine's own or of a device."""

    def __init__(
        self, name: str, kind: str, path: str, *, hotplug: bool, owner: Device | None = None
    ) -> None:
        self.name = name
        self.kind = kind
        self.path = path
        self.hotplug = hotplug
        self.owner = owner
        self.children: list[Device] = []
        self.reserved: set[int] = set()
        """Slots of the chipset."""
        self.free_ports = [str(number + 1) for number in range(_room(owner))] if kind == "usb-bus" else []
        """Ports of a USB controller; one that is given back is the last to be used again."""
        self.selector: int | None = None
        """By which number the ACPI registers select it; None where they do not."""

    @property
    def is_port(self) -> bool:
        """Whether it is the link below a port, which has one slot."""
        return self.owner is not None and self.kind == "PCIE"

    def take_port(self, wanted: str | None) -> str:
        """Take a USB port. Raises QmpRefusal."""
        if wanted:
            if wanted not in self.free_ports:
                raise QmpRefusal(f"usb port {wanted} (bus {self.name}) not found (in use?)")
            self.free_ports.remove(wanted)
            return wanted
        if not self.free_ports:
            raise QmpRefusal(f"Bus '{self.name}' is full")
        return self.free_ports.pop(0)

    def place(self, device: Device, wanted: int | None, version: tuple[int, int]) -> int:
        """Return the slot and function (``devfn``) of a PCI device here. Raises QmpRefusal."""
        taken = {child.devfn: child for child in self.children if child.devfn is not None}
        devfn = self._free_slot(device, taken) if wanted is None else wanted
        slot, function = devfn >> 3, devfn & 7
        strict = self.is_port and version >= (8, 0)
        first = taken.get(0 if strict else devfn & ~7)
        if devfn in taken or slot in self.reserved:
            holder = taken.get(devfn)
            who = f"{holder.driver},id={holder.id or '(null)'}" if holder else self._chip(devfn)
            raise QmpRefusal(
                f"PCI: slot {slot} function {function} not available for {device.driver}, in use by {who}"
            )
        if device.hotplugged and first is not None:
            raise QmpRefusal(
                f"PCI: slot {(first.devfn or 0) >> 3} function 0 already occupied by {first.driver}, "
                f"new func {device.driver} cannot be exposed to guest."
            )
        if strict and slot:
            raise QmpRefusal(
                f"PCI: slot {slot} is not valid for {device.driver}, parent device only allows plugging into "
                "slot 0."
            )
        return devfn

    def _free_slot(self, device: Device, taken: dict[int, Device]) -> int:
        """Return the first free slot; below a port, too, where a second one is of no use to anybody."""
        for slot in range(PCI_SLOTS):
            if slot not in self.reserved and not any(devfn >> 3 == slot for devfn in taken):
                return slot << 3
        raise QmpRefusal(f"PCI: no slot/function available for {device.driver}, all in use or reserved")

    def _chip(self, devfn: int) -> str:
        return f"{_CHIPS.get((self.name, devfn), '(unknown)')},id=(null)"


def _room(owner: Device | None) -> int:
    """Return how many devices a USB controller has ports for."""
    ports = owner.value_of("p2", 4) if owner is not None else 2
    return ports if isinstance(ports, int) else 4


def address(value: object, driver: str) -> int | None:
    """Return the ``devfn`` that the property ``addr`` means, None for any. Raises QmpRefusal."""
    if isinstance(value, int) and not isinstance(value, bool):
        return None if value < 0 else value
    slot, dot, function = str(value).partition(".")
    try:
        devfn = int(slot, 16) << 3 | (int(function, 16) if dot else 0)
    except ValueError:
        devfn = -1
    if not 0 <= devfn < 256 or (dot and int(function, 16) > 7):
        raise QmpRefusal(f"Property '{driver}.addr' doesn't take value '{value}'")
    return devfn
