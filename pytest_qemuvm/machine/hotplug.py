"""Hot-plug: a device is plugged when QEMU and the guest have it, and unplugged when it is truly gone."""

from __future__ import annotations

import itertools
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.devices.kind import Supplies
from pytest_qemuvm.devices.place import Image, Place
from pytest_qemuvm.devices.registry import kind_of
from pytest_qemuvm.devices.steps import AddBlockNode, Command
from pytest_qemuvm.errors import (
    CommandError,
    InUse,
    NoFreeSlot,
    NotAttached,
    QemuVMError,
    QmpTimeout,
    SpecError,
    UnplugRejected,
    UnplugTimeout,
    WaitTimeout,
)
from pytest_qemuvm.guest import waits
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.hotdevice import UNPLUG_SECONDS, Cdrom, HotDevice, ResizableMemory, handle_for
from pytest_qemuvm.plan.identity import mac_address
from pytest_qemuvm.plan.images import image_for
from pytest_qemuvm.plan.slots import SlotLedger
from pytest_qemuvm.spec.devices import DiskSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_qemuvm.devices.kind import DeviceKind
    from pytest_qemuvm.machine.live import Live
    from pytest_qemuvm.machine.services import Services
    from pytest_qemuvm.plan.model import PlannedDevice
    from pytest_qemuvm.qmp import Qmp
    from pytest_qemuvm.spec.devices import DeviceSpec

PLUG_SECONDS = 30.0
SETTLED = "/run/qemuvm/settled"
"""The built-in guest makes this file when its hot-plug services run."""
_RETRY_SECONDS = 0.05
"""How long a guest that is still busy with a plug is left alone before it is asked again."""
_GONE = ("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR")
_OST_REFUSED = 130
"""The status by which a guest refuses to give memory back: no other event tells (ACPI _OST, measured)."""


class HotPlug:
    """Plugs and unplugs, and keeps the ledger of what is plugged; one for each run of a VM."""

    def __init__(self, live: Live, services: Services, run_dir: Path, kinds: Sequence[DeviceKind]) -> None:
        self._live = live
        self._services = services
        self._run_dir = run_dir
        self._kinds = kinds
        plan = live.plan
        self._slots = SlotLedger(plan.free_ports, plan.held_ports)
        self._numbers: dict[str, itertools.count[int]] = {}
        self._devices = [self._from_the_start(device) for device in plan.devices]
        self._settled = False
        self._lock = threading.Lock()

    def _from_the_start(self, planned: PlannedDevice) -> HotDevice:
        """Return the handle of a device of the command line."""
        handle = handle_for(planned.spec)
        device = handle(self, planned.kind, planned.spec, planned.supplies, planned.fragment)
        device.plugged = True
        return device

    @property
    def alive(self) -> bool:
        """True while the machine runs."""
        return self._live.alive

    @property
    def has_guest(self) -> bool:
        """True where there is a guest to act on what it is told."""
        return self._live.channel is not None

    @property
    def qmp(self) -> Qmp:
        """The machine's monitor."""
        return self._live.qmp

    @property
    def devices(self) -> tuple[HotDevice, ...]:
        """What is plugged now."""
        return tuple(self._devices)

    # Plugging

    def plug(self, spec: DeviceSpec, image: Image | None, deadline: Deadline) -> HotDevice:
        """Plug a device and return it when QEMU, and the guest if there is one, has it.

        On failure nothing is left of it.
        """
        kind = kind_of(spec, self._kinds)
        with self._lock, ExitStack() as undo:
            self._await_settled(deadline)
            name = self._next_id(kind.name)
            supplies = self._supply(kind, spec, name, image, undo)
            fragment = kind.fragment(spec, supplies)
            device = handle_for(spec)(self, kind, spec, supplies, fragment)
            for step in fragment.steps:
                self._execute(step.plug(), deadline)
                undo.callback(self._undo, step.unplug(), device)
            self._verify_present(device)
            device.supplies = self._look(device)
            self._await_guest(device, deadline)
            device.plugged = True
            if isinstance(device, ResizableMemory):
                undo.callback(setattr, device, "plugged", False)
                device.fill(deadline.remaining)
            self._devices.append(device)
            undo.pop_all()
        return device

    def _await_settled(self, deadline: Deadline) -> None:
        """Wait, once, until the guest has what notices a plug: it goes on booting after its agent answers."""
        if not self._settled and self._live.channel is not None:
            waits.for_file(self._live.channel, SETTLED, deadline)
        self._settled = True

    def _next_id(self, prefix: str) -> str:
        numbers = self._numbers.setdefault(prefix, itertools.count())
        return next(name for number in numbers if (name := f"{prefix}{number}") not in self._live.plan.ids)

    def _supply(
        self, kind: DeviceKind, spec: DeviceSpec, name: str, image: Image | None, undo: ExitStack
    ) -> Supplies:
        """Decide where the device goes and make what it needs; what undoes that goes onto the stack."""
        supplies = Supplies(self._place(kind, spec, name, undo))
        if kind.needs == "image":
            if image is None:
                assert isinstance(spec, DiskSpec)
                image, made = image_for(spec, f"{self._run_dir}/{name}")
                for plan in made:
                    self._services.provisioner.make_image(plan, undo)
            return replace(supplies, image=image)
        if kind.needs == "mac":
            mac = getattr(spec, "mac", None) or mac_address(
                self._services.tag, f"{self._live.plan.name}/hot", _number(name)
            )
            return replace(supplies, mac=mac)
        if kind.needs == "path":
            return replace(supplies, path=str(self._services.socket_path()))
        if kind.needs == "cpu":
            return replace(supplies, facts=self._free_cpu())
        return supplies

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
        slot = self._slots.take(name)
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
        # QEMU lists the highest socket first.
        slot = free[-1]
        return {"type": slot["type"], "slot": slot["props"], "count": len(known) - len(free) + 1}

    def _execute(self, command: Command, deadline: Deadline) -> None:
        """Tell QEMU; what it does not know is told with what it knows."""
        try:
            self._live.qmp.execute(command.name, dict(command.arguments), timeout=deadline)
        except CommandError as error:
            if "lock" in error.desc:
                raise InUse(
                    f"the image is in use by another process: {error.desc}",
                    error.details,
                    holder="another process",
                ) from error
            raise SpecError(
                f"QEMU refused to plug {command.arguments.get('id', 'it')}: {error.desc}", error.details
            ) from error

    def _undo(self, command: Command, device: HotDevice) -> None:
        """Take back one step of a plug that failed."""
        if command.name != "device_del":
            self._live.qmp.execute(command.name, dict(command.arguments))
            return
        self._part(device, Deadline.after(UNPLUG_SECONDS))

    def _look(self, device: HotDevice) -> Supplies:
        """Return the supplies with what only the plugged device can tell."""
        supplies = device.supplies
        facts = dict(supplies.facts)
        if device.kind.needs == "address" and device.kind.bus(device.spec) == "board":
            (found,) = (
                entry["data"]
                for entry in self._live.qmp.execute("query-memory-devices")
                if entry["data"].get("id") == device.id
            )
            facts["address"] = found["addr"]
        if device.kind.bus(device.spec) == "slot":
            facts["at"] = self._address_in_guest(device)
        return replace(supplies, facts=facts)

    def _address_in_guest(self, device: HotDevice) -> str:
        """Return where in its /sys a Linux guest has the device, as a pattern for its shell."""
        bus = device.supplies.place.bus or ""
        if bus.startswith("rp"):
            number = int(bus.removeprefix("rp"))
            return f"/sys/bus/pci/devices/0000:00:{0x10 + number // 8:02x}.{number % 8}/0000:*"
        slot = self._live.qmp.execute(
            "qom-get", {"path": f"/machine/peripheral/{device.id}", "property": "addr"}
        )
        return f"/sys/bus/pci/devices/0000:00:{int(str(slot).partition('.')[0], 16):02x}.0"

    def _verify_present(self, device: HotDevice) -> None:
        if device.id not in self._peripherals():
            raise QemuVMError(
                f"QEMU took {device.id!r} and does not have it", ", ".join(sorted(self._peripherals()))
            )

    def _await_guest(self, device: HotDevice, deadline: Deadline) -> None:
        """Wait until the guest has it."""
        command = device.kind.seen and device.kind.seen(device.spec, device.supplies)
        if command and self._live.channel is not None:
            waits.until_succeeds(self._live.channel, command, deadline, interval=0.01)

    # Unplugging

    def unplug(self, device: HotDevice, deadline: Deadline) -> None:
        """Unplug a device; it leaves the ledger only when it is gone."""
        with self._lock:
            if device not in self._devices or not self._live.alive:
                device.plugged = False
                raise NotAttached(f"{device.id!r} is not plugged in any more")
            if device.kind.parting(device.spec) == "emptied":
                # It stays in QEMU, and in its slot, for the life of the machine: an empty shell.
                assert isinstance(device, ResizableMemory)
                device.resize(0, deadline.remaining)
                self._devices.remove(device)
                device.plugged = False
                return
            self._part(device, deadline)
            self._devices.remove(device)
            device.plugged = False
            self._remove_backends(device, deadline)
            self._verify_absent(device)
            place = device.supplies.place
            if place.bus:
                self._slots.give_back(place.bus)
            self._await_gone_in_guest(device, deadline)
        # A disk of the spec is there again after the next start.
        mine = device.id not in self._live.plan.ids
        if (
            mine
            and device.supplies.image is not None
            and device.supplies.image.path.startswith(f"{self._run_dir}/")
        ):
            Path(device.supplies.image.path).unlink(missing_ok=True)

    def _remove_backends(self, device: HotDevice, deadline: Deadline) -> None:
        """Remove what was behind the device, the upper before the lower."""
        if isinstance(device, Cdrom):
            commands = [Command("blockdev-del", {"node-name": node}) for node in device.medium_nodes()]
        else:
            commands = [step.unplug() for step in reversed(device.fragment.steps[:-1])]
        for command in commands:
            self._live.qmp.execute(command.name, dict(command.arguments), timeout=deadline)

    def _part(self, device: HotDevice, deadline: Deadline) -> None:
        """Have QEMU, and the guest, let the device go; wait until they have."""
        qmp = self._live.qmp
        since = qmp.events.last
        self._ask_to_go(device, deadline)
        parting = device.kind.parting(device.spec)
        if parting == "polled":
            self._poll_until_gone(device, deadline)
            return
        if parting == "asked" and self._live.played_guest is not None:
            self._live.played_guest.eject_pending()
        self._await_parting(device, since, deadline)

    def _ask_to_go(self, device: HotDevice, deadline: Deadline) -> None:
        """Send ``device_del``; a guest that has just seen the plug may be too busy to be asked."""
        while True:
            try:
                self._live.qmp.execute("device_del", {"id": device.id}, timeout=deadline)
            except CommandError as error:
                if "busy" not in error.desc:
                    raise
                if deadline.expired:
                    raise self._not_gone(device, deadline, error.desc) from error
                threading.Event().wait(_RETRY_SECONDS)
            else:
                return

    def _await_parting(self, device: HotDevice, since: int, deadline: Deadline) -> None:
        def concerns(data: dict[str, Any]) -> bool:
            # Virtio devices announce a child first, which has a path but no device.
            refused = data.get("info", {}).get("status") == _OST_REFUSED
            return data.get("device") == device.id or refused

        try:
            event = self._live.qmp.wait_event(
                (*_GONE, "ACPI_DEVICE_OST"), concerns, since=since, timeout=deadline
            )
        except QmpTimeout as error:
            raise self._not_gone(device, deadline, "no answer") from error
        if event.name != "DEVICE_DELETED":
            raise UnplugRejected(
                f"the guest refused to let {device.id!r} go", f"{event.name} {event.data}", device=device.id
            )

    def _poll_until_gone(self, device: HotDevice, deadline: Deadline) -> None:
        """Wait for what QEMU tells nobody; it can only be asked."""
        pause = threading.Event()
        while device.id in self._peripherals():
            if deadline.expired:
                raise self._not_gone(device, deadline, "it is still there")
            pause.wait(0.01)

    def _not_gone(self, device: HotDevice, deadline: Deadline, why: str) -> UnplugTimeout:
        return UnplugTimeout(
            f"the guest did not let {device.id!r} go within {deadline.seconds:g} s",
            f"{why}; the device is still plugged",
            device=device.id,
            waited_for=f"DEVICE_DELETED for {device.id!r}",
            seconds=deadline.seconds,
        )

    def _await_gone_in_guest(self, device: HotDevice, deadline: Deadline) -> None:
        command = device.kind.seen and device.kind.seen(device.spec, device.supplies)
        channel = self._live.channel
        if command and channel is not None and not self._live.interrupt.raised:
            try:
                waits.until_succeeds(channel, f"! ( {command} )", deadline, interval=0.01)
            except WaitTimeout as error:
                raise WaitTimeout(
                    f"{device.id!r} is gone from QEMU, and the guest still shows it",
                    error.details,
                    waited_for=f"the guest to forget {device.id!r}",
                    seconds=deadline.seconds,
                ) from error

    def _verify_absent(self, device: HotDevice) -> None:
        """Look into QEMU's own graph: neither the device nor a node of it may be left."""
        left = {device.id} & self._peripherals()
        nodes = {step.node_name for step in device.fragment.steps if isinstance(step, AddBlockNode)}
        if nodes:
            named = self._live.qmp.execute("query-named-block-nodes", {"flat": True})
            left |= nodes & {node["node-name"] for node in named}
        if left:
            raise QemuVMError(f"{device.id!r} was unplugged, and QEMU still has {', '.join(sorted(left))}")

    def _peripherals(self) -> set[str]:
        entries = self._live.qmp.execute("qom-list", {"path": "/machine/peripheral"})
        return {entry["name"] for entry in entries}


def _number(name: str) -> int:
    return int("".join(filter(str.isdigit, name)))
