"""What a plug needs before QEMU is told anything: an id, a place, and what is to be behind the device."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.devices.kind import Supplies
from pytest_qemuvm.devices.place import Place
from pytest_qemuvm.devices.steps import AddPassedNetdev
from pytest_qemuvm.errors import NoFreeSlot
from pytest_qemuvm.machine.whereabouts import is_empty, peripherals
from pytest_qemuvm.plan.identity import mac_address
from pytest_qemuvm.plan.images import image_for
from pytest_qemuvm.plan.slots import SlotLedger
from pytest_qemuvm.spec.devices import DiskSpec, NicSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_qemuvm.devices.kind import DeviceKind
    from pytest_qemuvm.devices.place import Image
    from pytest_qemuvm.devices.steps import Command, Step
    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.machine.hotdevice import HotDevice
    from pytest_qemuvm.machine.live import Live
    from pytest_qemuvm.machine.services import Services
    from pytest_qemuvm.plan.model import ImagePlan
    from pytest_qemuvm.plan.slots import Slots
    from pytest_qemuvm.spec.devices import DeviceSpec

    Tell = Callable[[Command, Deadline], object]


class Supplier:
    """Hands out ids, slots, images, addresses and sockets; one for each run of a VM."""

    def __init__(self, live: Live, services: Services, run_dir: Path) -> None:
        self._live = live
        self._services = services
        self._run_dir = run_dir
        self._slots = SlotLedger(live.plan.free_ports, live.plan.held_ports)
        self._numbers: dict[str, itertools.count[int]] = {}
        self._images: set[Path] = set()
        self.needed: set[Path] = set()
        """Images that stay when their device has gone: a snapshot rests on them."""
        live.on_close(self._remove_images)

    def supply(
        self, kind: DeviceKind, spec: DeviceSpec, image: Image | None, undo: ExitStack
    ) -> tuple[Supplies, tuple[ImagePlan, ...]]:
        """Decide where the device goes and what it needs, and return that with the images to be made for it.

        Nothing is made yet; what gives the slot back goes onto the stack. Raises NoFreeSlot.
        """
        name = self._next_id(kind.name)
        supplies = Supplies(self._place(kind, spec, name, undo))
        if kind.needs == "image" and image is None:
            assert isinstance(spec, DiskSpec)
            image, images = image_for(spec, f"{self._run_dir}/{name}")
            return replace(supplies, image=image), images
        return self._supplied(kind, spec, replace(supplies, image=image), undo), ()

    def make_images(self, images: Iterable[ImagePlan], undo: ExitStack) -> None:
        """Make the images for a device; what removes them goes onto the stack."""
        for plan in images:
            self._services.provisioner.make_image(plan, undo)
            self._images.add(Path(plan.path))

    def _supplied(self, kind: DeviceKind, spec: DeviceSpec, supplies: Supplies, undo: ExitStack) -> Supplies:
        name = supplies.place.id
        if kind.needs == "mac":
            assert isinstance(spec, NicSpec)
            vm, networks = self._live.plan.name, self._services.networks
            mac = spec.mac or mac_address(self._services.tag, f"{vm}/hot", _number(name))
            undo.callback(networks.disconnect, vm, name)
            link = networks.connect(vm, name, spec, mac)
            return replace(supplies, mac=mac, link=link)
        if kind.needs == "path":
            return replace(supplies, path=str(self._services.socket_path()))
        if kind.needs == "cpu":
            return replace(supplies, facts=self._free_cpu())
        return supplies

    def free_slot(self, supplies: Supplies) -> None:
        """Take back the slot of a device that is gone."""
        if supplies.place.bus:
            self._slots.give_back(supplies.place.bus)

    def execute(self, step: Step, device: HotDevice, deadline: Deadline, tell: Tell) -> None:
        """Have QEMU told of a step, and handed before what the step is about."""
        link = device.supplies.link
        with ExitStack() as handed_over:
            if isinstance(step, AddPassedNetdev) and link is not None:
                networks, vm = self._services.networks, self._live.plan.name
                end = networks.descriptor(vm, device.id, link, step.fd, handed_over)
                self._live.qmp.name_fd(step.fd, end, timeout=deadline)
            tell(step.plug(), deadline)

    def announce(self, device: HotDevice, deadline: Deadline) -> None:
        """Tell the guest which addresses a NIC will have that it is about to find."""
        link, mac = device.supplies.link, device.supplies.mac
        if link is not None and mac is not None and link.backend != "user" and self._live.channel is not None:
            self._live.channel.run(f"echo {link.told(mac)} >/run/qemuvm/net", deadline=deadline)

    def reconnect(self, device: HotDevice) -> None:
        """Connect a NIC again that was unplugged, and comes back as it was."""
        link, mac, vm = device.supplies.link, device.supplies.mac, self._live.plan.name
        if link is not None and mac is not None:
            assert isinstance(device.spec, NicSpec)
            ip = None if link.backend == "user" else link.ip
            self._services.networks.connect(vm, device.id, replace(device.spec, ip=ip), mac)

    def disconnect(self, device: HotDevice) -> None:
        """Take a NIC that is gone off its network."""
        if device.supplies.link is not None:
            self._services.networks.disconnect(self._live.plan.name, device.id)

    def remove_image(self, supplies: Supplies) -> None:
        """Remove the image behind a device that is gone, if it was made for that device."""
        path = Path(supplies.image.path) if supplies.image is not None else None
        if path in self._images and path not in self.needed:
            self._images.discard(path)
            path.unlink(missing_ok=True)

    @property
    def slots(self) -> Slots:
        """Which slots are free, and what holds the others."""
        return self._slots.state

    def return_to(self, slots: Slots) -> None:
        """Make the slots what they were."""
        self._slots.return_to(slots)

    def _remove_images(self) -> None:
        """Remove the images made for devices that went with the machine."""
        while self._images:
            self._images.pop().unlink(missing_ok=True)

    def _next_id(self, prefix: str) -> str:
        """Return an id that was never used here and that nobody else's device has."""
        numbers = self._numbers.setdefault(prefix, itertools.count())
        taken = peripherals(self._live.qmp) | set(self._live.plan.ids)
        return next(name for number in numbers if (name := f"{prefix}{number}") not in taken)

    def _place(self, kind: DeviceKind, spec: DeviceSpec, name: str, undo: ExitStack) -> Place:
        machine = self._live.plan.machine
        bus = kind.bus(spec)
        if bus == "board":
            return Place(name)
        if bus == "vserial":
            return Place(name, "vserial.0")
        if machine.hotplug == "none":
            raise NoFreeSlot(
                f"nothing can be plugged into a {machine.name} while it runs", hint="use machine='q35'"
            )
        if bus in ("scsi", "usb"):
            return Place(name, f"{bus}.0")
        if machine.hotplug == "root-bus":
            return Place(name, machine.root_bus)
        slot = self._slots.take(name, lambda port: is_empty(self._live.qmp, port))
        undo.callback(self._slots.give_back, slot)
        return Place(name, slot)

    def _free_cpu(self) -> dict[str, Any]:
        """Return the first free socket for a processor."""
        known = self._live.qmp.execute("query-hotpluggable-cpus")
        free = [slot for slot in known if "qom-path" not in slot]
        if not free:
            raise NoFreeSlot(
                f"all {len(known)} sockets for processors are taken", hint="give the VM fewer cpus="
            )
        self._live.hotplug.processors.check_room()
        # QEMU lists the highest socket first.
        slot = free[-1]
        return {"type": slot["type"], "slot": slot["props"], "count": len(known) - len(free) + 1}


def _number(name: str) -> int:
    return int("".join(filter(str.isdigit, name)))
