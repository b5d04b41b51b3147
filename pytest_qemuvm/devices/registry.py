"""All kinds of devices that can be plugged into a running machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.devices.cdrom import CDROM
from pytest_qemuvm.devices.cpu import CPU
from pytest_qemuvm.devices.disk import DISK
from pytest_qemuvm.devices.driver import DRIVER
from pytest_qemuvm.devices.memory import MEMORY
from pytest_qemuvm.devices.nic import NIC
from pytest_qemuvm.devices.rng import RNG
from pytest_qemuvm.devices.serial import SERIAL
from pytest_qemuvm.devices.usb import USB
from pytest_qemuvm.errors import SpecError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_qemuvm.devices.kind import DeviceKind

BUILT_IN: tuple[DeviceKind, ...] = (DISK, NIC, SERIAL, RNG, USB, CDROM, MEMORY, CPU, DRIVER)


def kind_of(spec: object, kinds: Iterable[DeviceKind]) -> DeviceKind:
    """Return the kind that a spec belongs to. Raises SpecError where there is none."""
    known = tuple(kinds)
    for kind in known:
        if type(spec) is kind.spec:
            return kind
    name = type(spec).__name__
    raise SpecError(
        f"{spec!r} is nothing that can be plugged", hint=nearest(name, (kind.spec.__name__ for kind in known))
    )
