"""What a test does to a VM from outside: look at its screen, press its keys, reach its ports."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import (
    CommandError,
    QemuVMError,
    QmpTimeout,
    SpecError,
    VMStateError,
    WaitTimeout,
)
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.hotplug import PLUG_SECONDS
from pytest_qemuvm.machine.keys import chord, keys_for
from pytest_qemuvm.machine.lifecycle import Lifecycle
from pytest_qemuvm.machine.nics import NicCapture, find_nic
from pytest_qemuvm.spec.names import new_file
from pytest_qemuvm.spec.sizes import parse_size

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from pytest_qemuvm.devices.place import Image
    from pytest_qemuvm.machine.hotdevice import HotDevice
    from pytest_qemuvm.spec.devices import DeviceSpec

BALLOON_SECONDS = 60.0
HOLD_MILLISECONDS = 25
"""How long a key is held; the next one is pressed when it has been let go."""
KEYS_AT_ONCE = 100
"""Keys that are handed to QEMU without waiting for it: its queue holds 1024 presses, pauses and releases."""

_FORWARD = re.compile(r"^\s*TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)\s", re.MULTILINE)


def forwarded_ports(text: str) -> dict[int, int]:
    """Return guest port -> host port from what ``info usernet`` prints."""
    # NICs are listed in the order of the spec; what comes first is written last.
    return {int(guest): int(host) for host, guest in reversed(_FORWARD.findall(text))}


class Outside(Lifecycle):
    """The host's side of a VM."""

    def port(self, guest_port: int) -> int:
        """Return the port of 127.0.0.1 that QEMU forwards to a TCP port of the guest.

        Raises SpecError where no NIC of the spec forwards it.
        """
        known = [port for nic in self.nics for port in nic.forward]
        if guest_port not in known:
            raise SpecError(
                f"port {guest_port} of VM {self.name!r} is not forwarded (forwarded: {known or 'none'})",
                hint=f"ask for it: nics=[NicSpec(forward=({guest_port},))]",
            )
        # Only the human monitor tells which port QEMU was given for the 0 that it was asked for.
        text = self.monitor.execute(
            "human-monitor-command", {"command-line": "info usernet"}, allow_dangerous=True
        )
        # Of several NICs that forward it, the first.
        host_port = forwarded_ports(text).get(guest_port)
        if host_port is None:
            raise QemuVMError(f"QEMU does not list the forward of port {guest_port}", text)
        return host_port

    @property
    def devices(self) -> tuple[HotDevice, ...]:
        """What is plugged into it now: what its spec asked for, and what was plugged since."""
        return self._live.hotplug.devices if self._live is not None else ()

    def hotplug(self, spec: DeviceSpec, *, timeout: float = PLUG_SECONDS) -> HotDevice:
        """Plug a device into the running machine and return it when QEMU, and the guest, has it.

        ``spec`` is a DiskSpec, NicSpec, UsbSpec, SerialSpec, RngSpec, CdromSpec, MemorySpec or CpuSpec, or
        for any other device a DriverSpec; ``timeout`` is in seconds. Used as a context manager, the device is
        unplugged on leaving. Raises NotRunning, NoFreeSlot, SpecError where QEMU does not know or refuses it,
        WaitTimeout where the guest does not see it; nothing is left then.
        """
        return self.plug(spec, None, timeout)

    def plug(self, spec: DeviceSpec, image: Image | None, timeout: float) -> HotDevice:
        """Plug a device; a disk on an image that is there already, if one is given."""
        return self._running().hotplug.plug(spec, image, Deadline.after(timeout))

    def capture(self, path: str | os.PathLike[str] | None = None, *, nic: HotDevice | int = 0) -> NicCapture:
        """Write all frames that pass through a NIC, from now on and both ways, to a pcap file.

        ``nic`` is its number, or what ``hotplug`` gave. Without a path it is kept where a failing test's
        files are; ``.path`` says where it is meanwhile. Ends with ``close()`` of what is returned, a context
        manager, or with the NIC. Raises NotRunning, SpecError.
        """
        live = self._running()
        device = find_nic(live, nic)
        own = self.run_dir / f"{device.id}-{next(live.numbers)}.pcap"
        target = own if path is None else new_file(path, "capture")
        return NicCapture(live, device, target)

    def balloon(self, size: int | str, *, timeout: float = BALLOON_SECONDS) -> None:
        """Have the guest keep so much of its memory and give the rest back; ``size`` is what it keeps.

        Waits until the balloon has that size; it moves slowly. Raises VMStateError for a VM without
        ``balloon=True``, SpecError for more than the VM has, WaitTimeout where the guest does not follow.
        """
        wanted = parse_size(size, "balloon")
        if not self.spec.balloon:
            raise VMStateError(f"VM {self.name!r} has no balloon", hint="ask for one: balloon=True")
        if wanted > self.spec.bytes:
            raise SpecError(f"balloon: {size!r} is more than the VM's memory")
        self.require_guest(f"guest in VM {self.name!r} to give memory back")
        qmp, deadline = self.monitor, Deadline.after(timeout)
        since = qmp.events.last
        qmp.execute("balloon", {"value": wanted}, timeout=deadline)
        if qmp.execute("query-balloon")["actual"] == wanted:
            return
        try:
            qmp.wait_event("BALLOON_CHANGE", {"actual": wanted}, since=since, timeout=deadline)
        except QmpTimeout as error:
            actual = qmp.execute("query-balloon")["actual"]
            raise WaitTimeout(
                f"the balloon of {self.name!r} did not reach {wanted} bytes within {timeout:g} s",
                f"it is at {actual}",
                waited_for="BALLOON_CHANGE",
                seconds=timeout,
            ) from error

    def screenshot(self, path: str | os.PathLike[str]) -> Path:
        """Write what is on the screen to a PNG file and return its path.

        Raises VMStateError for a machine without a display.
        """
        if not self.plan.display:
            raise VMStateError(
                f"VM {self.name!r} has no display",
                hint="display=True, the default, gives one to every machine type with a PCI bus",
            )
        target = new_file(path, "screenshot")
        self._running().hotplug.processors.check_sound("show its screen")
        self._services.provisioner.executables.require_guest(f"screen of VM {self.name!r}")
        self.monitor.execute("screendump", {"filename": str(target), "format": "png"})
        return target

    def send_keys(self, *chords: str) -> None:
        """Press keys: each argument is a key (``"ret"``) or several at once (``"ctrl-alt-delete"``).

        The names are QEMU's (QKeyCode). Raises SpecError for one that QEMU does not know.
        """
        for keys in chords:
            self._press(chord(keys))

    def type_text(self, text: str) -> None:
        """Type a text on the keyboard, a US one, at about forty characters a second.

        QEMU's keyboard holds 16 bytes that the guest has not read, and drops what comes then: whoever types
        faster than a busy guest reads loses letters.
        """
        every = [keys_for(character) for character in text]
        for start in range(0, len(every), KEYS_AT_ONCE):
            some = every[start : start + KEYS_AT_ONCE]
            for keys in some:
                self._press(keys)
            if len(every) > KEYS_AT_ONCE:
                # QEMU queues keys and tells nobody when it has pressed them; its queue is bounded too.
                threading.Event().wait(len(some) * HOLD_MILLISECONDS / 1000)

    def _press(self, keys: tuple[str, ...]) -> None:
        pressed = [{"type": "qcode", "data": key} for key in keys]
        arguments = {"keys": pressed, "hold-time": HOLD_MILLISECONDS}
        try:
            self.monitor.execute("send-key", arguments)
        except CommandError as error:
            raise SpecError(f"{'-'.join(keys)!r} is not a chord that QEMU knows", error.desc) from error
