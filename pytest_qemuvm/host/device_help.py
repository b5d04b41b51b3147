"""What QEMU prints of its devices: read, and asked of a QEMU that makes no machine."""

from __future__ import annotations

import re
from typing import NamedTuple

from pytest_qemuvm.errors import nearest
from pytest_qemuvm.host.bounded import run_bounded

_SECONDS = 10.0
"""Each question takes 30 ms; a cold disk, and 50 modules on it, may take seconds."""

_LINE = re.compile(r'^name "([^"]+)"(?:, bus ([^,\s]+))?(?:, alias "([^"]+)")?(.*)$', re.MULTILINE)
_OPTION = re.compile(r"^ +([^\s=]+)=<", re.MULTILINE)

_UNKNOWN_DEVICE = re.compile(r"-device .*'([^']+)' is not a valid device(?: model)? name")
_WRONG_BUS = re.compile(r"-device .*Device '([^']+)' can't go on ")
_UNKNOWN_PROPERTY = re.compile(r"-device .*Property '([^']+)\.([^'.]+)' not found")


_BUS_WORDS = {"PCI": "pci", "usb-bus": "usb", "SCSI": "scsi", "virtio-serial-bus": "virtio-serial"}


class Driver(NamedTuple):
    """A device that QEMU has."""

    name: str
    bus: str | None
    """The bus that it sits on, in QEMU's words: ``PCI``, ``usb-bus``, ``SCSI``, ``virtio-serial-bus``."""

    def belongs(self) -> str:
        """Say in a hint what ``bus`` a spec of it has to name."""
        return f"{self.name} belongs on bus={_BUS_WORDS.get(self.bus or '', 'none')!r}"


def read_drivers(text: str) -> dict[str, Driver]:
    """Return the drivers that a user may name, by their names and aliases.

    ``text`` is what ``-device help`` prints.
    """
    found = {}
    for name, bus, alias, rest in _LINE.findall(text):
        if "no-user" not in rest:
            for known_as in filter(None, (name, alias)):
                found[known_as] = Driver(name, bus or None)
    return found


def drivers_of(binary: str) -> dict[str, Driver]:
    """Return the drivers of a QEMU, which is started to be asked; none where it does not answer."""
    return read_drivers(_ask(binary, "help"))


def right_name(binary: str, log: str) -> str | None:
    """Return a hint with the right name where the log says that QEMU did not know a device or property.

    Likewise with the right bus where a device was put on a wrong one. None where the log says no such thing,
    and where QEMU does not answer. ``binary`` is started to be asked.
    """
    if found := _UNKNOWN_DEVICE.search(log):
        known = list(drivers_of(binary))
        return f"{found[1]!r}: {nearest(found[1], known)}" if known else None
    if found := _WRONG_BUS.search(log):
        driver = drivers_of(binary).get(found[1])
        return driver.belongs() if driver else None
    if found := _UNKNOWN_PROPERTY.search(log):
        known = _OPTION.findall(_ask(binary, f"{found[1]},help"))
        return f"{found[2]!r} of {found[1]!r}: {nearest(found[2], known)}" if known else None
    return None


def _ask(binary: str, what: str) -> str:
    try:
        argv = [binary, "-machine", "none", "-nodefaults", "-display", "none", "-device", what]
        return run_bounded(argv, seconds=_SECONDS).stdout
    except OSError:
        return ""
