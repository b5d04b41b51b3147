"""Hot-plug: a device is plugged when QEMU and the guest have it, and unplugged when it is truly gone."""

from __future__ import annotations

import itertools
import re
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.devices.controllers import root_port_address
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
    QmpDisconnected,
    QmpTimeout,
    SpecError,
    UnplugRejected,
    UnplugTimeout,
    VMStateError,
    WaitTimeout,
)
from pytest_qemuvm.guest import waits
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.hotdevice import Cdrom, HotDevice, ResizableMemory, handle_for
from pytest_qemuvm.machine.uses import files_of, image_of, medium_of
from pytest_qemuvm.plan.identity import mac_address
from pytest_qemuvm.plan.images import image_for
from pytest_qemuvm.plan.slots import SlotLedger
from pytest_qemuvm.spec.devices import DiskSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_qemuvm.devices.kind import DeviceKind
    from pytest_qemuvm.devices.steps import Step
    from pytest_qemuvm.machine.live import Live
    from pytest_qemuvm.machine.services import Services
    from pytest_qemuvm.machine.uses import Uses
    from pytest_qemuvm.plan.model import PlannedDevice
    from pytest_qemuvm.qmp import Qmp
    from pytest_qemuvm.spec.devices import DeviceSpec

PLUG_SECONDS = 30.0
SETTLED = "/run/qemuvm/settled"
"""The built-in guest makes this file when its hot-plug services run."""
_RETRY_SECONDS = 0.05
"""How long a guest that is still busy with a plug is left alone before it is asked again."""
_GONE = ("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR")
_GUEST_GONE = ("GUEST_PANICKED", "SHUTDOWN")
_ROLLBACK_SECONDS = 10.0
"""How long a guest is given to let go what it did not take in time."""
_LOCKED = re.compile(r'Failed to get (shared )?"\w+" lock')
_NOT_THERE = re.compile(r"not found|Failed to find")
_BEING_ASKED = re.compile(r"in the process of unplug|in progress")
_OST_REFUSED = 130
"""The status by which a guest refuses to give memory back: no other event tells (ACPI _OST, measured)."""


class HotPlug:
    """Plugs and unplugs, and keeps the ledger of what is plugged; one for each run of a VM."""

    def __init__(
        self, live: Live, services: Services, run_dir: Path, kinds: Sequence[DeviceKind], uses: Uses
    ) -> None:
        self._live = live
        self.uses = uses
        """Which of the user's images the devices are on."""
        self._services = services
        self._run_dir = run_dir
        self._kinds = kinds
        plan = live.plan
        self._slots = SlotLedger(plan.free_ports, plan.held_ports)
        self._numbers: dict[str, itertools.count[int]] = {}
        self._devices = [self._from_the_start(device) for device in plan.devices]
        self._settled: str | None = None
        """The boot in which the guest was seen to be ready for plugs."""
        self._images: set[Path] = set()
        live.on_close(self._remove_images)
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
        return tuple(self._devices) if self.alive else ()

    # Plugging

    def plug(self, spec: DeviceSpec, image: Image | None, deadline: Deadline) -> HotDevice:
        """Plug a device and return it when QEMU, and the guest if there is one, has it.

        On failure nothing is left of it.
        """
        kind = kind_of(spec, self._kinds)
        files_of(image_of(spec))  # what cannot be used is said before anything is touched
        with self._turn(deadline), ExitStack() as undo:
            self._await_settled(deadline)
            name = self._next_id(kind.name)
            undo.callback(self.uses.end, name)
            self._watch(spec, name)
            supplies = self._supply(kind, spec, name, image, undo)
            fragment = kind.fragment(spec, supplies)
            device = handle_for(spec)(self, kind, spec, supplies, fragment)
            done: list[Step] = []
            try:
                self._plug(device, done, deadline)
            except BaseException as error:
                device.plugged = not self._take_back(device, done, error)
                if device.plugged:
                    # It is still there, so it is in the ledger, and slot and files are still its own.
                    self._devices.append(device)
                    undo.pop_all()
                raise
            self._devices.append(device)
            undo.pop_all()
        return device

    def _plug(self, device: HotDevice, done: list[Step], deadline: Deadline) -> None:
        """Go through the steps, each noted as done before it is, and see that they came to something."""
        for step in device.fragment.steps:
            done.append(step)
            try:
                self._execute(step.plug(), deadline)
            except (SpecError, InUse):
                done.pop()  # refused; with any other failure nobody knows
                raise
        self._verify_present(device)
        device.supplies = self._look(device)
        self._await_guest(device, deadline)
        device.plugged = True
        if isinstance(device, ResizableMemory):
            device.fill(deadline.remaining)

    def _take_back(self, device: HotDevice, done: list[Step], error: BaseException) -> bool:
        """Undo what was done of a plug that failed; return whether the device is gone.

        What goes wrong here is a note on the error that is on its way, not another error.
        """
        deadline = Deadline.after(_ROLLBACK_SECONDS)
        for step in reversed(done):
            command = step.unplug()
            try:
                if command.name == "device_del":
                    self._part(device, deadline)
                else:
                    self._live.qmp.execute(command.name, dict(command.arguments))
            except QmpDisconnected:
                return True
            except QemuVMError as problem:
                if isinstance(problem, CommandError) and _NOT_THERE.search(problem.desc):
                    continue
                if not self._live.alive:
                    return True
                error.add_note(f"taking {device.id!r} back failed, and it is still plugged: {problem.brief}")
                return False
        return True

    @contextmanager
    def _turn(self, deadline: Deadline) -> Iterator[None]:
        """Wait until no other thread plugs or unplugs. Raises WaitTimeout."""
        if not self._lock.acquire(timeout=deadline.remaining):
            raise WaitTimeout(
                f"another thread plugs or unplugs, and has done so for {deadline.seconds:g} s",
                waited_for="the other thread's plug or unplug",
                seconds=deadline.seconds,
            )
        try:
            yield
        finally:
            self._lock.release()

    def _await_settled(self, deadline: Deadline) -> None:
        """Wait, once for each boot, until the guest has what notices a plug.

        It goes on booting after its agent answers. Raises VMStateError where it does not run at all.
        """
        channel = self._live.channel
        if channel is None:
            return
        status = self._live.qmp.execute("query-status", timeout=deadline)["status"]
        if status != "running":
            raise VMStateError(
                f"the machine is {status}: its guest would not notice a plug",
                hint="resume() it first" if status == "paused" else None,
            )
        if self._settled != channel.boot_id:
            waits.for_file(channel, SETTLED, deadline)
            self._settled = channel.boot_id

    def _next_id(self, prefix: str) -> str:
        """Return an id that was never used here and that nobody else's device has."""
        numbers = self._numbers.setdefault(prefix, itertools.count())
        taken = self._peripherals() | set(self._live.plan.ids)
        return next(name for number in numbers if (name := f"{prefix}{number}") not in taken)

    def _watch(self, spec: DeviceSpec, name: str) -> None:
        """Note what the user's image or medium is like before the device has it."""
        if images := image_of(spec):
            self.uses.begin(name, images)
        if (medium := medium_of(spec)) is not None:
            self.uses.begin_medium(name, medium)

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
                    self._images.add(Path(plan.path))
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
        slot = self._slots.take(name, self._is_empty)
        undo.callback(self._slots.give_back, slot)
        return Place(name, slot)

    def _is_empty(self, port: str) -> bool:
        """Return whether a root port has no device: the test may have plugged one by itself."""
        entries = self._live.qmp.execute("qom-list", {"path": f"/machine/peripheral/{port}/{port}"})
        return not any(entry["name"].startswith("child[") for entry in entries)

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
            if _LOCKED.search(error.desc):
                raise InUse(
                    f"the image is in use by another process: {error.desc}",
                    error.details,
                    holder="another process",
                ) from error
            raise SpecError(
                f"QEMU refused to plug {command.arguments.get('id', 'it')}: {error.desc}", error.details
            ) from error

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
            port, function = root_port_address(int(bus.removeprefix("rp")))
            return f"/sys/bus/pci/devices/0000:00:{port:02x}.{function}/0000:*"
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
        with self._turn(deadline):
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
            if device.supplies.place.bus:
                self._slots.give_back(device.supplies.place.bus)
            self._remove_backends(device)
            if device.path in self._images:
                self._images.discard(device.path)
                device.path.unlink(missing_ok=True)
            self._verify_absent(device)
            self.uses.end(device.id)
            self._await_gone_in_guest(device, deadline)
            self.uses.check()

    def _remove_images(self) -> None:
        """Remove the images made for devices that went with the machine."""
        while self._images:
            self._images.pop().unlink(missing_ok=True)

    def _remove_backends(self, device: HotDevice) -> None:
        """Remove what was behind the device, the upper before the lower.

        The device is gone, so this is done whether or not the caller's time is up.
        """
        if isinstance(device, Cdrom):
            commands = [Command("blockdev-del", {"node-name": node}) for node in device.medium_nodes()]
        else:
            commands = [step.unplug() for step in reversed(device.fragment.steps[:-1])]
        for command in commands:
            self._live.qmp.execute(command.name, dict(command.arguments))

    def _part(self, device: HotDevice, deadline: Deadline) -> None:
        """Have QEMU, and the guest, let the device go; wait until they have."""
        qmp = self._live.qmp
        parting = device.kind.parting(device.spec)
        if parting != "at once":
            self._check_guest_lives(device)
        since = qmp.events.last
        asked = self._ask_to_go(device, deadline)
        if parting == "polled":
            self._poll_until_gone(device, deadline)
            return
        if parting == "asked" and self._live.played_guest is not None:
            self._live.played_guest.eject_pending()
        try:
            if asked:
                self._await_parting(device, since, deadline)
            else:
                # It has left QEMU's tree; it is gone for good when the event of its earlier unplug is there.
                qmp.wait_event("DEVICE_DELETED", {"device": device.id}, since=0, timeout=deadline)
        except QmpTimeout as error:
            raise self._not_gone(device, deadline, "no answer") from error

    def _check_guest_lives(self, device: HotDevice) -> None:
        """Raise VMStateError where nobody can agree to an unplug any more."""
        for name in _GUEST_GONE:
            if self._live.channel is not None and self._live.qmp.events.since(0, name):
                how = "panicked" if name == "GUEST_PANICKED" else "switched itself off"
                raise VMStateError(
                    f"the guest {how}, and cannot let {device.id!r} go: it is still plugged",
                    f"last console lines:\n{self._live.console.tail()}",
                )

    def _ask_to_go(self, device: HotDevice, deadline: Deadline) -> bool:
        """Send ``device_del``; return False if the device has gone meanwhile.

        It may, after an unplug whose time was up before the guest agreed. A guest that has just seen the plug
        may be too busy to be asked.
        """
        while True:
            try:
                self._live.qmp.execute("device_del", {"id": device.id}, timeout=deadline)
            except QmpTimeout as error:
                raise self._not_gone(device, deadline, "QEMU did not answer") from error
            except CommandError as error:
                if error.class_ == "DeviceNotFound":
                    return False
                if _BEING_ASKED.search(error.desc):
                    return True
                if "busy" not in error.desc:
                    raise
                if deadline.expired:
                    raise self._not_gone(device, deadline, error.desc) from error
                threading.Event().wait(_RETRY_SECONDS)
            else:
                return True

    def _await_parting(self, device: HotDevice, since: int, deadline: Deadline) -> None:
        """Wait until the guest has agreed, refused, or gone."""

        def concerns(data: dict[str, Any]) -> bool:
            info = data.get("info", {})
            # Virtio devices announce a child first, which has a path but no device.
            mine = device.id in (data.get("device"), info.get("device"))
            # A panic has an action, a shutdown a reason; what the guest refuses may name no device.
            return (
                mine
                or (info.get("status") == _OST_REFUSED and "device" not in info)
                or bool({"action", "reason"} & data.keys())
            )

        names = (*_GONE, "ACPI_DEVICE_OST", *(_GUEST_GONE if self._live.channel is not None else ()))
        event = self._live.qmp.wait_event(names, concerns, since=since, timeout=deadline)
        while event.name == "ACPI_DEVICE_OST" and event.data["info"]["status"] != _OST_REFUSED:
            event = self._live.qmp.wait_event(names, concerns, since=event.seq, timeout=deadline)
        if event.name in _GUEST_GONE:
            self._check_guest_lives(device)
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
