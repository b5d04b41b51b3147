"""Where QEMU has a device, and where a Linux guest finds it: asked of QEMU once the device is plugged."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_qemuvm.devices.controllers import root_port_address

if TYPE_CHECKING:
    from pytest_qemuvm.devices.kind import Supplies
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
    if device.kind.needs == "address" and device.kind.bus(device.spec) == "board":
        (found,) = (
            entry["data"]
            for entry in qmp.execute("query-memory-devices")
            if entry["data"].get("id") == device.id
        )
        facts["address"] = found["addr"]
    if device.kind.bus(device.spec) == "slot":
        facts["at"] = _address_in_guest(qmp, device)
    return replace(supplies, facts=facts)


def _address_in_guest(qmp: Qmp, device: HotDevice) -> str:
    """Return where in its /sys a Linux guest has a PCI device, as a pattern for its shell."""
    bus = device.supplies.place.bus or ""
    if bus.startswith("rp"):
        port, function = root_port_address(int(bus.removeprefix("rp")))
        return f"/sys/bus/pci/devices/0000:00:{port:02x}.{function}/0000:*"
    slot = qmp.execute("qom-get", {"path": f"/machine/peripheral/{device.id}", "property": "addr"})
    return f"/sys/bus/pci/devices/0000:00:{int(str(slot).partition('.')[0], 16):02x}.0"
