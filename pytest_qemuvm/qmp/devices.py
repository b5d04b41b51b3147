"""What QEMU says of its devices: which it has, and with which properties of which types."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_qemuvm.errors import CommandError, nearest
from pytest_qemuvm.host.device_help import drivers_of
from pytest_qemuvm.spec.properties import PLACE

if TYPE_CHECKING:
    from pytest_qemuvm.host.device_help import Driver

Ask = Callable[[Iterable[tuple[str, Mapping[str, Any]]]], list[Any]]
"""Asks a QEMU several questions, in the harness's own name, and returns the answers; raises QmpError."""


class Wrong(NamedTuple):
    """What is wrong with a device that is to be added."""

    key: str
    """``driver``, or a property."""
    brief: str
    hint: str | None = None


class KnownDevices:
    """The devices of one QEMU binary; each driver is asked about once."""

    def __init__(self, binary: str | None = None) -> None:
        self._binary = binary
        self._properties: dict[str, Mapping[str, str] | None] = {}
        self._missing: set[str] = set()

    def learn(self, driver: str, ask: Ask) -> None:
        """Have a driver's properties known, for ``wrong``. Raises QmpError where QEMU does not answer."""
        if driver in self._properties or driver in self._missing:
            return
        try:
            self._properties[driver] = _listing(driver, ask)
        except CommandError:
            # It may be one of QEMU's other names for a device, which no command tells, or have no list.
            known = self.drivers
            if not known:
                self._properties[driver] = None
            elif driver in known:
                self._properties[driver] = _listing_or_none(known[driver].name, ask)
            else:
                self._missing.add(driver)

    def wrong(self, driver: str, properties: Mapping[str, Any], *, strings: bool = True) -> Wrong | None:
        """Return what is wrong with a device by what was learnt of its driver; None also where nothing was.

        A value is judged where QEMU's type of it says all: bool, int and str. The rest is QEMU's to judge.
        Without ``strings`` so is each str: some versions of QEMU read a number from one.
        """
        if driver in self._missing:
            return Wrong("driver", f"QEMU has no device {driver!r}", nearest(driver, self.drivers))
        known = self._properties.get(driver)
        if known is None:
            return None
        for key, value in properties.items():
            if key in PLACE:
                continue
            if key not in known:
                return Wrong(key, f"{driver!r} has no property {key!r}", nearest(key, known))
            expected = None if isinstance(value, str) and not strings else _expected(known[key], value)
            if expected is not None:
                return Wrong(key, f"the property {key!r} of {driver!r} is {expected}")
        return None

    @cached_property
    def drivers(self) -> dict[str, Driver]:
        """All devices by name, as another QEMU of the same binary lists them; none where it does not.

        Not the one that runs: to list them it loads all its modules, and one that does not fit, as after an
        upgrade of the package, ends it (QEMU 10.0).
        """
        return drivers_of(self._binary) if self._binary is not None else {}


def _listing(driver: str, ask: Ask) -> dict[str, str]:
    (found,) = ask([("device-list-properties", {"typename": driver})])
    return {entry["name"]: entry["type"] for entry in found}


def _listing_or_none(driver: str, ask: Ask) -> dict[str, str] | None:
    try:
        return _listing(driver, ask)
    except CommandError:
        return None


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
