"""Hot-plug: a device is plugged when QEMU and the guest have it, and unplugged when it is truly gone."""

from __future__ import annotations

import re
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_qemuvm.devices.registry import kind_of
from pytest_qemuvm.devices.steps import AddDevice
from pytest_qemuvm.errors import (
    CommandError,
    InUse,
    NotAttached,
    QemuVMError,
    QmpDisconnected,
    SpecError,
    VMStateError,
    WaitTimeout,
)
from pytest_qemuvm.guest import waits
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.departure import Departure
from pytest_qemuvm.machine.hotdevice import HotDevice, ResizableMemory, handle_for
from pytest_qemuvm.machine.processors import Processors
from pytest_qemuvm.machine.supplier import Supplier
from pytest_qemuvm.machine.uses import files_of, image_of, medium_of
from pytest_qemuvm.machine.whereabouts import look, peripherals

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pytest_qemuvm.devices.kind import DeviceKind
    from pytest_qemuvm.devices.place import Image
    from pytest_qemuvm.devices.steps import Command, Fragment, Step
    from pytest_qemuvm.machine.live import Live
    from pytest_qemuvm.machine.services import Services
    from pytest_qemuvm.machine.uses import Uses
    from pytest_qemuvm.plan.model import PlannedDevice
    from pytest_qemuvm.plan.slots import Slots
    from pytest_qemuvm.qmp import Qmp
    from pytest_qemuvm.spec.devices import DeviceSpec

PLUG_SECONDS = 60.0
SETTLED = "/run/qemuvm/settled"
"""The built-in guest makes this file when its hot-plug services run."""
_ROLLBACK_SECONDS = 10.0
"""How long a guest is given to let go what it did not take in time."""
_LOCKED = re.compile(r'Failed to get (shared )?"\w+" lock')


@dataclass(frozen=True, slots=True)
class Ledger:
    """What was plugged at one moment."""

    devices: tuple[HotDevice, ...]
    shells: tuple[HotDevice, ...]
    """What was unplugged and stayed all the same."""
    slots: Slots
    settled: str | None
    """The boot in which the guest was seen to be ready for plugs."""


class HotPlug:
    """Plugs and unplugs, and keeps the ledger of what is plugged; one for each run of a VM."""

    def __init__(
        self, live: Live, services: Services, run_dir: Path, kinds: Sequence[DeviceKind], uses: Uses
    ) -> None:
        self._live = live
        self.uses = uses
        """Which of the user's images the devices are on."""
        self._kinds = kinds
        self._catalogue = services.catalogue
        self.supplier = Supplier(live, services, run_dir)
        """Who keeps its slots and images; for the harness."""
        self.departure = Departure(live)
        self._devices = [self._from_the_start(device) for device in live.plan.devices]
        self._shells: list[HotDevice] = []
        self.processors = Processors(live)
        """What the loss of some forbids."""
        self._acting = services.acting
        self._settled: str | None = None
        """The boot in which the guest was seen to be ready for plugs."""
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
    def since(self) -> int:
        """The number of the last event before the present life of the machine."""
        return self._live.since

    @property
    def ledger(self) -> Ledger:
        """What is plugged, and where there is room, as of now."""
        return Ledger(tuple(self._devices), tuple(self._shells), self.supplier.slots, self._settled)

    def return_to(self, ledger: Ledger) -> None:
        """Make the ledger what it was: the devices have been brought back to it."""
        self._devices, self._shells = list(ledger.devices), list(ledger.shells)
        self.supplier.return_to(ledger.slots)
        self._settled = ledger.settled

    def gone(self, device: HotDevice) -> None:
        """Note that a device has left QEMU, and remove what was behind it. Raises UnplugIncomplete."""
        device.pending = self.departure.backends(device)
        if device.kind.needs == "cpu":
            self.processors.lost_one()
        self._devices.remove(device)
        device.plugged = False
        self.supplier.free_slot(device.supplies)
        self.supplier.disconnect(device)
        self.clear_up(device)

    def clear_up(self, device: HotDevice) -> None:
        """Remove what is left behind a device that has gone, and look whether it has."""
        self.departure.remove_backends(device)
        self.supplier.remove_image(device.supplies)
        self.departure.verify_absent(device)
        self.uses.end(device.id)

    def back(self, device: HotDevice) -> None:
        """Note that a device has come back."""
        device.plugged, device.pending = True, ()
        self._devices.append(device)

    @property
    def devices(self) -> tuple[HotDevice, ...]:
        """What is plugged now."""
        return tuple(self._devices) if self.alive else ()

    @property
    def accounted(self) -> tuple[HotDevice, ...]:
        """What QEMU has by our doing: what is plugged, and what stays as an empty shell after an unplug."""
        return (*self._devices, *self._shells)

    @property
    def busy(self) -> bool:
        """True while somebody plugs or unplugs."""
        return self._lock.locked()

    # Plugging

    def plug(self, spec: DeviceSpec, image: Image | None, deadline: Deadline) -> HotDevice:
        """Plug a device and return it when QEMU, and the guest if there is one, has it.

        On failure nothing is left of it.
        """
        kind = kind_of(spec, self._kinds)
        files_of(image_of(spec))  # what cannot be used is said before anything is touched
        with self.turn(deadline), ExitStack() as undo:
            if _maps_memory(kind, spec):
                self.processors.check_sound(f"have a {kind.name} plugged")
            self.await_settled(deadline)
            supplies, images = self.supplier.supply(kind, spec, image, undo)
            fragment = kind.fragment(spec, supplies)
            self._check(kind, fragment, deadline)
            undo.callback(self.uses.end, supplies.place.id)
            self.watch(spec, supplies.place.id)
            self.supplier.make_images(images, undo)
            device = handle_for(spec)(self, kind, spec, supplies, fragment)
            device.owner = self._acting()
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

    def watch(self, spec: DeviceSpec, name: str) -> None:
        """Note what the user's image or medium is like before the device has it."""
        if images := image_of(spec):
            self.uses.begin(name, images)
        if (medium := medium_of(spec)) is not None:
            self.uses.begin_medium(name, medium)

    def _check(self, kind: DeviceKind, fragment: Fragment, deadline: Deadline) -> None:
        """Raise SpecError for a device or property that QEMU does not have."""
        for step in fragment.steps:
            # What a processor is called and where it goes has just been told by QEMU itself.
            if isinstance(step, AddDevice) and kind.needs != "cpu":
                self._catalogue.check(self._live.qmp, step, deadline)

    def _plug(self, device: HotDevice, done: list[Step], deadline: Deadline) -> None:
        """Go through the steps, each noted as done before it is, and see that they came to something."""
        self.supplier.announce(device, deadline)
        for step in device.fragment.steps:
            done.append(step)
            try:
                self.supplier.execute(step, device, deadline, self.execute)
            except (SpecError, InUse):
                done.pop()  # refused; with any other failure nobody knows
                raise
        self.verify_present(device)
        device.supplies = look(self._live.qmp, device)
        self._await_guest(device, deadline)
        device.plugged = True
        if isinstance(device, ResizableMemory):
            device.fill(deadline.remaining)

    def _take_back(self, device: HotDevice, done: list[Step], error: BaseException) -> bool:
        """Undo what was done of a plug that failed; return whether the device is gone.

        What goes wrong here is a note on the error that is on its way, not another error.
        """
        backends = [step for step in done if step is not device.fragment.steps[-1]]
        try:
            if len(backends) < len(done):
                self.departure.part(device, Deadline.after(_ROLLBACK_SECONDS))
                if device.kind.needs == "cpu":
                    self.processors.lost_one()
        except QemuVMError as problem:
            if isinstance(problem, QmpDisconnected) or not self._live.alive:
                return True
            error.add_note(f"taking {device.id!r} back failed, and it is still plugged: {problem.brief}")
            return False
        device.pending = tuple(step.unplug() for step in reversed(backends))
        try:
            self.departure.remove_backends(device)
        except QmpDisconnected:
            pass
        except QemuVMError as problem:
            error.add_note(f"taking {device.id!r} back: {problem.brief}; it goes with the machine")
        return True

    def plug_again(self, device: HotDevice, deadline: Deadline) -> None:
        """Plug a device again that was unplugged, where it was; the handle is as good as before.

        For what has no backends, such as a processor.
        """
        with self.turn(deadline):
            self.await_settled(deadline)
            for step in device.fragment.steps:
                self.execute(step.plug(), deadline)
            self.verify_present(device)
            self.back(device)
            self._await_guest(device, deadline)

    @contextmanager
    def turn(self, deadline: Deadline) -> Iterator[None]:
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

    def await_settled(self, deadline: Deadline) -> None:
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

    def settled(self, boot: str) -> None:
        """Note that the guest of that boot is ready for plugs: it was when it was saved."""
        self._settled = boot

    def execute(self, command: Command, deadline: Deadline) -> None:
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
            driver = str(command.arguments.get("driver"))
            raise SpecError(
                f"QEMU refused to plug {command.arguments.get('id', 'it')}: {error.desc}",
                error.details,
                self._catalogue.hint(driver, error.desc),
            ) from error

    def verify_present(self, device: HotDevice) -> None:
        """Look into QEMU's own list of devices. Raises QemuVMError."""
        known = peripherals(self._live.qmp)
        if device.id not in known:
            raise QemuVMError(f"QEMU took {device.id!r} and does not have it", ", ".join(sorted(known)))

    def _await_guest(self, device: HotDevice, deadline: Deadline) -> None:
        """Wait until the guest has it."""
        command = device.kind.seen and device.kind.seen(device.spec, device.supplies)
        if command and self._live.channel is not None:
            waits.until_succeeds(self._live.channel, command, deadline, interval=0.01)

    # Unplugging

    def _look_at_last(self, device: HotDevice) -> None:
        """Learn of a device from the command line, which no plug has looked at, where the guest has it."""
        if not device.supplies.facts and self._live.plan.machine.transport == "pci":
            with suppress(CommandError):  # it may be gone already
                device.supplies = look(self._live.qmp, device)

    def unplug(self, device: HotDevice, deadline: Deadline) -> None:
        """Unplug a device; it leaves the ledger only when it is gone."""
        with self.turn(deadline):
            if not self._live.alive or (device not in self._devices and not device.pending):
                device.plugged = False
                raise NotAttached(f"{device.id!r} is not plugged in any more")
            if device.kind.parting(device.spec) == "emptied":
                # It stays in QEMU, and in its slot, for the life of the machine: an empty shell.
                assert isinstance(device, ResizableMemory)
                device.resize(0, deadline.remaining)
                self._devices.remove(device)
                self._shells.append(device)
                device.plugged = False
                return
            if _maps_memory(device.kind, device.spec) and device.kind.needs != "cpu":
                self.processors.check_sound(f"have {device.id!r} unplugged")
            self._live.layers.heal(device)
            if device in self._devices:
                self._look_at_last(device)
                self.departure.part(device, deadline)
                # From here on it has gone, whatever becomes of what was behind it.
                self.gone(device)
            else:
                self.clear_up(device)
            self.departure.await_gone_in_guest(device, deadline)
            self.uses.check()


def _maps_memory(kind: DeviceKind, spec: DeviceSpec) -> bool:
    """Return whether the machine's memory map changes with a device: not with one behind a controller."""
    return kind.bus(spec) in ("slot", "board")
