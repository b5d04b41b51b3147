"""Devices: made of what was recorded of their drivers, put on buses, and taken off again."""

from __future__ import annotations

from pytest_qemuvm.sim.buses import MACHINE_BUSES, TAKEN_SLOTS, Bus, address
from pytest_qemuvm.sim.properties import converted
from pytest_qemuvm.sim.words import QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.drive import Drive
    from pytest_qemuvm.sim.machine import Machine

_NOT_PROPERTIES = frozenset({"driver", "id", "bus"})
_PCIE_PORTS = frozenset({"pcie-root-port", "ioh3420", "x3130-upstream", "xio3130-downstream"})

_BUS_OF = {"virtio-serial-device": "virtio-serial-bus", "virtio-scsi-device": "SCSI"}
"""The buses of drivers that could not be tried out on the machine that was recorded."""


class Device:
    """One device."""

    def __init__(self, driver: str, name: str | None, recorded: dict[str, Any], *, hotplugged: bool) -> None:
        self.driver = driver
        self.id = name
        self.recorded = recorded
        self.hotplugged = hotplugged
        self.given: dict[str, Any] = {}
        """Properties that were given, as the device has them."""
        self.found: dict[str, Any] = {}
        """Properties that the machine chose, such as the number of a port."""
        self.bus: Bus | None = None
        self.buses: list[Bus] = []
        self.devfn: int | None = None
        self.drive: Drive | None = None
        self.path = ""
        self.leaving = False
        self.usb_port = ""

    def value_of(self, name: str, default: Any = None) -> Any:
        """Return a property: what was given or chosen, else the recorded default."""
        if name in self.given:
            return self.given[name]
        if name in self.found:
            return self.found[name]
        for entry in self.recorded["properties"]:
            if entry["name"] == name:
                return entry.get("default-value", default)
        return default

    def has(self, name: str) -> bool:
        """Return whether the driver has a property."""
        return any(entry["name"] == name for entry in self.recorded["properties"])

    @property
    def backend(self) -> str:
        """The path of the virtio device behind a PCI one, or nothing."""
        specimen = self.recorded.get("specimen", ())
        inner = any(item[0] == "virtio-backend" for item in specimen)
        return f"{self.path}/virtio-backend" if inner else ""


class Devices:
    """All devices of a machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.named: dict[str, Device] = {}
        self.nameless: list[Device] = []
        self.buses: list[Bus] = []
        self._selectors = 0

    def begin(self) -> None:
        """Make the buses of the machine's own."""
        for name, kind, path, hotplug in MACHINE_BUSES[self._machine.type]:
            self.buses.append(Bus(name, kind, path, hotplug=hotplug))
            if kind in {"PCI", "PCIE"}:
                self.buses[-1].reserved.update(TAKEN_SLOTS[self._machine.type])
                if hotplug:
                    self.buses[-1].selector = self._select()

    def _select(self) -> int:
        self._selectors += 1
        return self._selectors - 1

    def all(self) -> list[Device]:
        """Return all devices, those with a name first."""
        return [*self.named.values(), *self.nameless]

    def bus(self, name: str) -> Bus | None:
        """Return the bus of that name."""
        return next((bus for bus in self.buses if bus.name == name), None)

    def add(self, arguments: dict[str, Any], *, cold: bool = False, text: bool = False) -> Device:
        """Make a device. Raises QmpRefusal, with nothing left."""
        machine = self._machine
        text = text or (not cold and machine.version < (9, 2))
        driver = arguments.get("driver")
        if driver is None or (not isinstance(driver, str) and not text):
            raise QmpRefusal("Parameter 'driver' is missing")
        recorded, driver = self._recorded(str(driver), cold=cold)
        bus = self._find_bus(arguments.get("bus"), driver, recorded, text=text)
        if bus is not None and not cold and not bus.hotplug:
            raise QmpRefusal(f"Bus '{bus.name}' does not support hotplugging")
        refused = recorded.get("refused")
        if not cold and refused == f"Device '{driver}' does not support hotplugging":
            raise QmpRefusal(refused)
        name = arguments.get("id")
        if name is not None and str(name) in self.named:
            raise QmpRefusal(f"Duplicate device ID '{name}'")
        device = Device(driver, None if name is None else str(name), recorded, hotplugged=not cold)
        self._set(device, arguments, text=text)
        device.bus = bus
        device.path = (
            f"/machine/peripheral/{device.id}"
            if device.id is not None
            else f"/machine/peripheral-anon/device[{len(self.nameless)}]"
        )
        self._realize(device)
        if device.id is None:
            self.nameless.append(device)
        else:
            self.named[device.id] = device
        return device

    def _recorded(self, driver: str, *, cold: bool) -> tuple[dict[str, Any], str]:
        archive = self._machine.archive
        key = f"device/{driver}"
        if key not in archive:
            driver = archive.get("aliases").get(driver, driver)
            key = f"device/{driver}"
        if key not in archive:
            kind = archive.get("types").get(driver)
            if kind is not None and kind[1] and self._is_device(driver):
                raise QmpRefusal("Parameter 'driver' expects a non-abstract device type")
            raise QmpRefusal(f"'{driver}' is not a valid device model name")
        recorded: dict[str, Any] = archive.get(key)
        unpluggable = "Parameter 'driver' expects a pluggable device type"
        if not recorded.get("user") or (not cold and recorded.get("refused") == unpluggable):
            raise QmpRefusal(unpluggable)
        return recorded, driver

    def _is_device(self, name: str) -> bool:
        types = self._machine.archive.get("types")
        parent: str | None = name
        while parent is not None and parent != "device":
            parent = types.get(parent, (None,))[0]
        return parent == "device"

    def is_a(self, kind: str, ancestor: str) -> bool:
        """Return whether a type is another, or descends from it."""
        types = self._machine.archive.get("types")
        parent: str | None = kind
        while parent is not None and parent != ancestor:
            parent = types.get(parent, (None,))[0]
        return parent == ancestor

    def _find_bus(self, wanted: Any, driver: str, recorded: dict[str, Any], *, text: bool) -> Bus | None:
        kind = recorded.get("bus")
        if isinstance(wanted, str) or (wanted is not None and text):
            bus = self.bus(str(wanted).rpartition("/")[2])
            if bus is None:
                raise QmpRefusal(f"Bus '{wanted}' not found")
            if kind is None or not self._fits(bus, kind):
                raise QmpRefusal(f"Device '{driver}' can't go on {bus.kind} bus")
            return bus
        if kind is None:
            return None
        for bus in self.buses:
            full = bus.children and (bus.is_port or bus.kind == "virtio-mmio-bus")
            if self._fits(bus, kind) and not full:
                return bus
        raise QmpRefusal(f"No '{kind}' bus found for device '{driver}'")

    def _fits(self, bus: Bus, kind: str) -> bool:
        return bus.kind == kind or self.is_a(bus.kind, kind)

    def _set(self, device: Device, arguments: dict[str, Any], *, text: bool) -> None:
        entries = {entry["name"]: entry for entry in device.recorded["properties"]}
        for key, value in arguments.items():
            if key in _NOT_PROPERTIES:
                continue
            if key not in entries:
                raise QmpRefusal(f"Property '{device.driver}.{key}' not found")
            device.given[key] = converted(device.driver, entries[key], value, text=text)

    def _realize(self, device: Device) -> None:
        from pytest_qemuvm.sim import realize

        realize.check_names(self._machine, device)
        if device.bus is not None and device.bus.kind in {"PCI", "PCIE"}:
            wanted = device.given.get("addr")
            devfn = address(wanted, device.driver) if wanted is not None else None
            device.devfn = device.bus.place(device, devfn, self._machine.version)
            device.given.pop("addr", None)
        realize.realize(self._machine, device)
        if device.bus is not None:
            device.bus.children.append(device)
        self._make_buses(device)

    def _make_buses(self, device: Device) -> None:
        """Make the buses that a device brings along."""
        if device.driver in _PCIE_PORTS:
            bus = Bus(str(device.id), "PCIE", f"{device.path}/{device.id}", hotplug=True, owner=device)
            bus.selector = self._select()
            device.buses.append(bus)
        elif "specimen" not in device.recorded and device.driver in _BUS_OF:
            name = f"{device.id}.0"
            device.buses.append(
                Bus(name, _BUS_OF[device.driver], f"{device.path}/{name}", hotplug=True, owner=device)
            )
        else:
            self._buses_of_specimen(device, device.recorded.get("specimen", ()), device.path)
        self.buses.extend(device.buses)

    def _buses_of_specimen(self, device: Device, items: Any, path: str) -> None:
        for item in items:
            name, kind = item[0], item[1]
            if not kind.startswith("child<") or not isinstance(item[2], list):
                continue
            kind = kind[6:-1]
            if self.is_a(kind, "bus"):
                own = name.replace("it.", f"{device.id}.", 1) if name.startswith("it.") else name
                plain = kind in {"SCSI", "usb-bus", "virtio-serial-bus"} and device.driver != "usb-storage"
                device.buses.append(Bus(own, kind, f"{path}/{own}", hotplug=plain, owner=device))
            elif name == "virtio-backend":
                self._buses_of_specimen(device, item[2], f"{path}/{name}")

    def remove(self, device: Device) -> list[dict[str, str]]:
        """Take a device away with all that sits on its buses; return the data of the events, in order."""
        from pytest_qemuvm.sim import realize

        told: list[dict[str, str]] = []
        for bus in device.buses:
            for child in list(bus.children):
                told += self.remove(child)
            self.buses.remove(bus)
        if device.bus is not None:
            device.bus.children.remove(device)
        inner = realize.unrealize(self._machine, device)
        told += [{"path": path} for path in inner]
        if device.id is not None:
            del self.named[device.id]
            told.append({"device": device.id, "path": device.path})
        else:
            self.nameless.remove(device)
            told.append({"path": device.path})
        return told
