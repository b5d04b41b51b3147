"""What is known of QEMU's devices: a wrong name is told of before anything is touched."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.qmp.devices import KnownDevices

if TYPE_CHECKING:
    from pytest_qemuvm.devices.steps import AddDevice
    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.qmp import Qmp

_WRONG_BUS = re.compile(r"can't go on|does not support hotplugging|No '.*' bus found")
_NEVER_PLUGGED = ("ISA", "System")
"""Buses that take nothing while the machine runs."""


class Catalogue:
    """The devices of one QEMU binary, for all machines of a session."""

    def __init__(self, binary: str | None = None) -> None:
        self.devices = KnownDevices(binary)

    def check(self, qmp: Qmp, device: AddDevice, deadline: Deadline) -> None:
        """Raise SpecError unless QEMU has such a device, with such properties, of such types."""
        self.devices.learn(device.driver, partial(qmp.inspect, timeout=deadline))
        wrong = self.devices.wrong(device.driver, device.properties)
        if wrong is not None:
            given = device.properties.get(wrong.key)
            raise SpecError(wrong.brief, None if wrong.hint else f"it is {given!r}", wrong.hint)

    def hint(self, driver: str, refusal: str) -> str | None:
        """Return where a device belongs that QEMU refused to have where it was put."""
        if not _WRONG_BUS.search(refusal):
            return None
        found = self.devices.drivers.get(driver)
        if found is None:
            return None
        if found.bus in _NEVER_PLUGGED:
            return f"{driver} sits on the {found.bus} bus: give it to the machine at its launch, by devices="
        return found.belongs()
