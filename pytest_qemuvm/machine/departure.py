"""How a device leaves: the guest lets it go, what was behind it is removed, and its absence is looked for."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.devices.steps import AddBlockNode
from pytest_qemuvm.errors import (
    CommandError,
    QemuVMError,
    QmpTimeout,
    UnplugIncomplete,
    UnplugRejected,
    UnplugTimeout,
    VMStateError,
    WaitTimeout,
)
from pytest_qemuvm.guest import waits
from pytest_qemuvm.machine.backends import remove
from pytest_qemuvm.machine.hotdevice import Cdrom
from pytest_qemuvm.machine.whereabouts import peripherals

if TYPE_CHECKING:
    from pytest_qemuvm.devices.steps import Command
    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.machine.hotdevice import HotDevice
    from pytest_qemuvm.machine.live import Live

_RETRY_SECONDS = 0.05
"""How long a guest that is still busy with a plug is left alone before it is asked again."""
_GONE = ("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR")
_GUEST_GONE = ("GUEST_PANICKED", "SHUTDOWN")
_BEING_ASKED = re.compile(r"in the process of unplug|in progress")
_OST_REFUSED = 130
"""The status by which a guest refuses to give memory back: no other event tells (ACPI _OST, measured)."""


class Departure:
    """The single acts of an unplug; the engine, which keeps the ledger, decides their order."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def part(self, device: HotDevice, deadline: Deadline) -> None:
        """Have QEMU, and the guest, let the device go; wait until they have.

        Raises UnplugRejected, UnplugTimeout, and VMStateError where the guest is past agreeing.
        """
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
                qmp.wait_event(
                    "DEVICE_DELETED", {"device": device.id}, since=self._live.since, timeout=deadline
                )
        except QmpTimeout as error:
            raise self._not_gone(device, deadline, "no answer") from error

    def _check_guest_lives(self, device: HotDevice) -> None:
        """Raise VMStateError where nobody can agree to an unplug any more."""
        for name in _GUEST_GONE:
            if self._live.channel is not None and self._live.qmp.events.since(self._live.since, name):
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
                    raise UnplugRejected(
                        f"QEMU refused to let {device.id!r} go: {error.desc}", error.details, device=device.id
                    ) from error
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
        while device.id in peripherals(self._live.qmp):
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

    def backends(self, device: HotDevice) -> tuple[Command, ...]:
        """Return what removes all that is behind a device, the upper before the lower."""
        if isinstance(device, Cdrom):
            return device.medium_removal()
        return tuple(step.unplug() for step in reversed(device.fragment.steps[:-1]))

    def remove_backends(self, device: HotDevice) -> None:
        """Remove what is pending behind a device that has gone.

        This is done whether or not the caller's time is up. Raises UnplugIncomplete where QEMU refuses; what
        it still has stays pending.
        """
        while device.pending:
            command = device.pending[0]
            try:
                remove(self._live.qmp, command)
            except (CommandError, QmpTimeout) as error:
                why = error.desc if isinstance(error, CommandError) else error.brief
                raise UnplugIncomplete(
                    f"{device.id!r} is gone, and QEMU did not remove {command.subject!r} behind it: {why}",
                    error.details,
                    "release it from whatever uses it, then unplug() again",
                    device=device.id,
                    left=device.left,
                ) from error
            device.pending = device.pending[1:]

    def await_gone_in_guest(self, device: HotDevice, deadline: Deadline) -> None:
        """Wait until the guest shows it no more. Raises WaitTimeout."""
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

    def verify_absent(self, device: HotDevice) -> None:
        """Look into QEMU's own graph: neither the device nor a node of it may be left."""
        left = {device.id} & peripherals(self._live.qmp)
        nodes = {step.node_name for step in device.fragment.steps if isinstance(step, AddBlockNode)}
        if nodes:
            named = self._live.qmp.execute("query-named-block-nodes", {"flat": True})
            left |= nodes & {node["node-name"] for node in named}
        if left:
            raise QemuVMError(f"{device.id!r} was unplugged, and QEMU still has {', '.join(sorted(left))}")
