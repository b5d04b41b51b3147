"""Which device goes where: buses, slots and ids of everything a machine has at launch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_qemuvm.devices.controllers import (
    root_port,
    scsi_controller,
    serial_controller,
    usb_controller,
)
from pytest_qemuvm.devices.disk import DISK
from pytest_qemuvm.devices.driver import DRIVER
from pytest_qemuvm.devices.kind import Supplies
from pytest_qemuvm.devices.nic import NIC
from pytest_qemuvm.devices.place import Place
from pytest_qemuvm.devices.platform import balloon, display, panic_notifier, vm_generation_id
from pytest_qemuvm.devices.rng import rng
from pytest_qemuvm.devices.serial import SERIAL, serial_port
from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.plan.identity import numbered_nics
from pytest_qemuvm.plan.images import cache_for, image_for
from pytest_qemuvm.plan.model import PlannedDevice, PlannedNic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_qemuvm.arch import Machine
    from pytest_qemuvm.devices.kind import DeviceKind
    from pytest_qemuvm.devices.steps import Fragment
    from pytest_qemuvm.plan.model import CachePlan, ImagePlan, Plugged, Surroundings
    from pytest_qemuvm.spec.devices import DeviceSpec, DiskSpec, DriverSpec
    from pytest_qemuvm.spec.vm import Boot, VMSpec

FIRST_TO_BOOT = 1
"""The firmware boots the device of the lowest ``bootindex``."""
AGENT_PORTS = 4
"""Ports for the agent: commands of several threads run side by side, and the last ends an overrun one."""

_PLATFORM = {"vmgenid": vm_generation_id, "pvpanic": panic_notifier, "display": display}
_CONTROLLERS = {"scsi": scsi_controller, "usb": usb_controller}
_PCI_ONLY = ("nvme", "usb")


@dataclass(frozen=True, slots=True)
class Layout:
    """All fragments in the order of the command line."""

    built_in: tuple[Fragment, ...]
    requested: tuple[PlannedDevice, ...]
    images: tuple[ImagePlan, ...]
    caches: tuple[CachePlan, ...]
    nics: tuple[PlannedNic, ...]
    agent_sockets: tuple[str, ...]
    sockets: tuple[str, ...]
    free_ports: tuple[str, ...]
    held_ports: tuple[tuple[str, str], ...]

    def with_plugged(self, plugged: Plugged) -> Layout:
        """Return it with other devices in place of those that the spec asks for."""
        return replace(
            self,
            built_in=(*self.built_in, *plugged.shells),
            requested=plugged.devices,
            images=plugged.images,
            caches=(),
            nics=plugged.nics,
            free_ports=plugged.slots[0],
            held_ports=plugged.slots[1],
        )


class _RootPorts:
    """Hands out root ports; on machines without them, the bus that takes their place."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.ids: list[str] = []
        self.held: list[tuple[str, str]] = []

    def next(self, holder: str | None = None) -> str | None:
        if self._machine.hotplug != "root-port":
            return self._machine.root_bus
        self.ids.append(f"rp{len(self.ids)}")
        if holder is not None:
            self.held.append((self.ids[-1], holder))
        return self.ids[-1]

    def fragments(self) -> Iterator[Fragment]:
        for number, port in enumerate(self.ids):
            yield root_port(Place(port, self._machine.root_bus), number)


def lay_out(spec: VMSpec, machine: Machine, world: Surroundings, boot: Boot) -> Layout:
    """Give every device of the spec its id and its place."""
    ports = _RootPorts(machine)
    order = _boot_order(spec, world, boot)
    images: list[ImagePlan] = []
    caches: list[CachePlan] = []
    nics: list[PlannedNic] = []
    requested: list[PlannedDevice] = []
    for index, disk_spec in enumerate(spec.disks):
        _check_bus(disk_spec.bus, machine)
        stem = f"{world.run_dir}/disk{index}"
        image, made = image_for(disk_spec, stem)
        images.extend(made)
        if disk_spec.volatile_cache:
            image, cache = cache_for(f"disk{index}", image, stem)
            caches.append(cache)
        place = _disk_place(disk_spec, index, machine, ports)
        supplies = Supplies(place, image=image, bootindex=order.get(f"disk{index}"))
        requested.append(_planned(DISK, disk_spec, supplies))
    for name, nic_spec, mac in numbered_nics(spec.nics, world.tag, world.name):
        if nic_spec.model != "virtio":
            _check_bus(nic_spec.model, machine, needs_pci=True)
        if nic_spec.boot:
            _check_bus("a NIC that is booted from", machine, needs_pci=True)
        planned = PlannedNic(name, mac, nic_spec.forward, world.links.get(name))
        nics.append(planned)
        place = Place(name, ports.next(name), machine.transport)
        supplies = Supplies(place, mac=mac, link=planned.link, bootindex=order.get(name))
        requested.append(_planned(NIC, nic_spec, supplies))
    for index, serial in enumerate(spec.serials):
        place = Place(f"serial{index}", "vserial.0")
        fragment = serial_port(place, serial.name, f"serial{index}", serial.properties)
        requested.append(PlannedDevice(SERIAL, serial, Supplies(place), fragment))
    for index, driver in enumerate(spec.devices):
        _check_bus(f"{driver.driver} (bus={driver.bus!r})", machine, needs_pci=driver.bus in ("pci", "usb"))
        supplies = Supplies(_driver_place(driver, index, machine, ports))
        requested.append(_planned(DRIVER, driver, supplies))
    free = [ports.next() for _ in range(spec.hotplug_slots)] if machine.hotplug == "root-port" else []
    agent = tuple(f"agent{number}" for number in range(AGENT_PORTS)) if world.boot else ()
    return Layout(
        built_in=(*ports.fragments(), *_built_in(spec, machine, agent)),
        requested=tuple(requested),
        images=tuple(images),
        caches=tuple(caches),
        nics=tuple(nics),
        agent_sockets=agent,
        sockets=(*agent, *(f"serial{index}" for index in range(len(spec.serials)))),
        free_ports=tuple(port for port in free if port),
        held_ports=tuple(ports.held),
    )


def _boot_order(spec: VMSpec, world: Surroundings, boot: Boot) -> dict[str, int]:
    """Return, by their ids, when the firmware tries to boot which devices; the others it never tries.

    What ``boot`` says comes first; where there is nothing to boot, the other kind follows. The built-in guest
    is on no disk.
    """
    disks = ["disk0"] if spec.disks and world.boot is None else []
    nics = [f"nic{index}" for index, nic in enumerate(spec.nics) if nic.boot]
    tried = {"disk": (*disks, *nics), "network": (*nics, *disks)}.get(boot, ())
    return {name: bootindex for bootindex, name in enumerate(tried, FIRST_TO_BOOT)}


def _planned(kind: DeviceKind, spec: DeviceSpec, supplies: Supplies) -> PlannedDevice:
    return PlannedDevice(kind, spec, supplies, kind.fragment(spec, supplies))


def _built_in(spec: VMSpec, machine: Machine, agent: tuple[str, ...]) -> Iterator[Fragment]:
    """Yield what the machine has without the test asking for it."""

    def place(name: str) -> Place:
        return Place(name, machine.root_bus, machine.transport)

    yield serial_controller(place("vserial"))
    for number, fd in enumerate(agent):
        yield serial_port(Place(fd, "vserial.0"), f"org.qemuvm.agent.{number}", fd)
    yield rng(place("rng0"))
    for bus, controller in _CONTROLLERS.items():
        if machine.transport == "pci" or bus not in _PCI_ONLY:
            yield controller(place(bus))
    if spec.balloon:
        yield balloon(place("balloon0"))
    for name in machine.platform:
        if name != "display" or spec.display:
            yield _PLATFORM[name](place(name))


def _check_bus(what: str, machine: Machine, *, needs_pci: bool = False) -> None:
    if machine.transport != "pci" and (needs_pci or what in _PCI_ONLY):
        raise SpecError(f"{machine.name} has no PCI bus, which {what} needs", hint="use machine='q35'")


def _disk_place(spec: DiskSpec, index: int, machine: Machine, ports: _RootPorts) -> Place:
    """Return where a disk goes: SCSI and USB disks on a controller, the others on their own slot."""
    name = f"disk{index}"
    if spec.bus == "scsi":
        return Place(name, "scsi.0")
    if spec.bus == "usb":
        return Place(name, "usb.0")
    return Place(name, ports.next(name), machine.transport)


def _driver_place(spec: DriverSpec, index: int, machine: Machine, ports: _RootPorts) -> Place:
    """Return where a device by its driver's name goes; with ``none`` QEMU looks for a bus itself."""
    name = f"driver{index}"
    if spec.bus == "pci":
        return Place(name, ports.next(name), machine.transport)
    if spec.bus == "none":
        return Place(name)
    return Place(name, "vserial.0" if spec.bus == "virtio-serial" else f"{spec.bus}.0")
