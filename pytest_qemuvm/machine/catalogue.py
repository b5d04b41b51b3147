"""What QEMU says of its devices, so that a wrong name is told of before anything is touched."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import CommandError, SpecError, nearest
from pytest_qemuvm.host.device_help import drivers_of
from pytest_qemuvm.spec.properties import PLACE

if TYPE_CHECKING:
    from pytest_qemuvm.devices.steps import AddDevice
    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.host.device_help import Driver
    from pytest_qemuvm.qmp import Qmp

_WRONG_BUS = re.compile(r"can't go on|does not support hotplugging|No '.*' bus found")
_NEVER_PLUGGED = ("ISA", "System")
"""Buses that take nothing while the machine runs."""


class Catalogue:
    """The devices of one QEMU binary; each driver is asked about once in a session."""

    def __init__(self, binary: str | None = None) -> None:
        self._binary = binary
        self._properties: dict[str, dict[str, str] | None] = {}

    def check(self, qmp: Qmp, device: AddDevice, deadline: Deadline) -> None:
        """Raise SpecError unless QEMU has such a device, with such properties, of such types.

        A value is judged where QEMU's type of it says all: bool, int and str. The rest is QEMU's to judge.
        """
        if device.driver not in self._properties:
            self._properties[device.driver] = self._ask(qmp, device.driver, deadline)
        known = self._properties[device.driver]
        if known is None:
            return
        for key, value in device.properties.items():
            if key in PLACE:
                continue
            if key not in known:
                raise SpecError(f"{device.driver!r} has no property {key!r}", hint=nearest(key, known))
            wanted = _expected(known[key], value)
            if wanted is not None:
                raise SpecError(
                    f"the property {key!r} of {device.driver!r} is {wanted}, which {value!r} is not"
                )

    def hint(self, driver: str, refusal: str) -> str | None:
        """Return where a device belongs that QEMU refused to have where it was put."""
        if not _WRONG_BUS.search(refusal):
            return None
        found = self._drivers.get(driver)
        if found is None:
            return None
        if found.bus in _NEVER_PLUGGED:
            return f"{driver} sits on the {found.bus} bus: give it to the machine at its launch, by devices="
        return found.belongs()

    def _ask(self, qmp: Qmp, driver: str, deadline: Deadline) -> dict[str, str] | None:
        """Return a device's properties with their types, or None for one that has no list of them."""
        try:
            return _listing(qmp, driver, deadline)
        except CommandError:
            # It may be one of QEMU's other names for a device, which no command tells.
            known = self._drivers
        if not known:
            return None  # then QEMU is to judge
        if driver not in known:
            raise SpecError(f"QEMU has no device {driver!r}", hint=nearest(driver, known))
        try:
            return _listing(qmp, known[driver].name, deadline)
        except CommandError:
            return None

    @cached_property
    def _drivers(self) -> dict[str, Driver]:
        """All devices by name, as another QEMU of the same binary lists them.

        Not the one that runs: to list them it loads all its modules, and one that does not fit, as after an
        upgrade of the package, ends it (QEMU 10.0).
        """
        return drivers_of(self._binary) if self._binary is not None else {}


def _listing(qmp: Qmp, driver: str, deadline: Deadline) -> dict[str, str]:
    found = qmp.execute("device-list-properties", {"typename": driver}, timeout=deadline)
    return {entry["name"]: entry["type"] for entry in found}


def _expected(kind: str, value: object) -> str | None:
    """Return what QEMU expects where it is not what the value is."""
    if kind == "bool":
        return None if isinstance(value, bool) else "True or False"
    if kind == "str":
        return None if isinstance(value, str) else "a str"
    bits = re.fullmatch(r"(u?)int(8|16|32|64)?|size", kind)
    if bits is None:
        return None
    unsigned = kind == "size" or bool(bits[1])
    width = int(bits[2] or 64)
    least, largest = (0, (1 << width) - 1) if unsigned else (-(1 << width - 1), (1 << width - 1) - 1)
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= largest:
        return None
    return f"an int from {least} to {largest}"
