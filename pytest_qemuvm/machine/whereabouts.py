"""Where QEMU has a device, and where a Linux guest finds it: asked of QEMU once the device is plugged."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.devices.controllers import root_port_address
from pytest_qemuvm.errors import QemuVMError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_qemuvm.devices.kind import Bus, Supplies
    from pytest_qemuvm.machine.hotdevice import HotDevice
    from pytest_qemuvm.qmp import Qmp


def peripherals(qmp: Qmp) -> set[str]:
    """Return the ids of all devices that QEMU has, whoever plugged them."""
    return {entry["name"] for entry in qmp.execute("qom-list", {"path": "/machine/peripheral"})}


def is_empty(qmp: Qmp, port: str) -> bool:
    """Return whether a root port has no device: the test may have plugged one by itself."""
    entries = qmp.execute("qom-list", {"path": f"/machine/peripheral/{port}/{port}"})
    return not any(entry["name"].startswith("child[") for entry in entries)


def look(qmp: Qmp, device: HotDevice) -> Supplies:
    """Return the supplies of a device with what only the plugged device can tell."""
    supplies = device.supplies
    facts = dict(supplies.facts)
    bus = device.kind.bus(device.spec)
    if bus == "slot":
        facts["at"] = _address_in_guest(qmp, device)
    elif device.kind.needs == "address":
        facts |= _ADDRESSES[bus](qmp, device.id)
    return replace(supplies, facts=facts)


_EXACT: dict[Bus, tuple[str, ...]] = {
    "slot": ("addr", "memaddr"),
    "scsi": ("channel", "scsi-id", "lun"),
    "vserial": ("nr",),
    "board": ("addr", "slot", "node"),
}


def exact_place(qmp: Qmp, device: HotDevice) -> dict[str, Any]:
    """Return what has to be said of a device for it to come to the very same place again."""
    if device.kind.needs == "cpu":  # it is all in its fragment
        return {}
    bus = device.kind.bus(device.spec)
    if bus == "usb":
        return _on_usb(qmp, device.id)
    entries = qmp.execute("qom-list", {"path": f"/machine/peripheral/{device.id}"})
    known = {entry["name"] for entry in entries}
    exact = {key: _property(qmp, device.id, key) for key in _EXACT[bus] if key in known}
    if "multifunction" in known:  # on PCI; a module of memory has an address of another kind
        slot, function = _slot(exact["addr"])
        exact["addr"] = f"{slot:x}.{function}"
    return exact


def _slot(addr: object) -> tuple[int, int]:
    """Return slot and function of a PCI device's ``addr``: a number, or two as text."""
    if isinstance(addr, int):
        return addr >> 3, addr & 7
    slot, _, function = str(addr).partition(".")
    return int(slot, 16), int(function or "0", 16)


def _property(qmp: Qmp, name: str, key: str) -> Any:
    return qmp.execute("qom-get", {"path": f"/machine/peripheral/{name}", "property": key})


def _on_board(qmp: Qmp, name: str) -> dict[str, Any]:
    """Return where memory begins; what is no memory has no address."""
    devices = (entry["data"] for entry in qmp.execute("query-memory-devices"))
    return next(({"address": found["addr"]} for found in devices if found.get("id") == name), {})


def _on_scsi(qmp: Qmp, name: str) -> dict[str, Any]:
    return {"scsi": ":".join(str(_property(qmp, name, key)) for key in ("channel", "scsi-id", "lun"))}


def _on_usb(qmp: Qmp, name: str) -> dict[str, Any]:
    """Return the port of a USB device, which only the human monitor tells."""
    text = qmp.execute("human-monitor-command", {"command-line": "info usb"}, allow_dangerous=True)
    found = re.search(rf"Port ([\d.]+),.* ID: {re.escape(name)}\s", text + "\n")
    if found is None:
        raise QemuVMError(f"QEMU does not list {name!r} among its USB devices", text)
    return {"port": found[1]}


def _on_serial(qmp: Qmp, name: str) -> dict[str, Any]:
    return {"nr": _property(qmp, name, "nr")}


_ADDRESSES: dict[Bus, Callable[[Qmp, str], dict[str, Any]]] = {
    "board": _on_board,
    "scsi": _on_scsi,
    "usb": _on_usb,
    "vserial": _on_serial,
}


def _address_in_guest(qmp: Qmp, device: HotDevice) -> str:
    """Return where in its /sys a Linux guest has a PCI device, as a pattern for its shell."""
    bus = device.supplies.place.bus or ""
    if bus.startswith("rp"):
        port, function = root_port_address(int(bus.removeprefix("rp")))
        return f"/sys/bus/pci/devices/0000:00:{port:02x}.{function}/0000:*"
    slot, _ = _slot(_property(qmp, device.id, "addr"))
    return f"/sys/bus/pci/devices/0000:00:{slot:02x}.0"
