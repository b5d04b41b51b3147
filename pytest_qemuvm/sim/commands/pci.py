"""The PCI buses, as they are before a firmware has been there."""

from __future__ import annotations

from pytest_qemuvm.sim.words import NotModelled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.machine import Machine

_SATA = (0x1F, 2)


def query_pci(machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is on the root bus; where a firmware runs, nobody knows what it made of the buses."""
    if machine.guest.model != "absent":
        raise NotModelled("PCI buses that a firmware has numbered")
    recorded = machine.archive.get(f"pci/{machine.type}")
    if not recorded:
        return []
    shown = [
        device
        for device in recorded[0]["devices"]
        if machine.settings.get("sata") != "off" or (device["slot"], device["function"]) != _SATA
    ]
    for device in machine.devices.all():
        if device.bus is None or device.bus.owner is not None or device.devfn is None:
            continue
        entry = device.recorded.get("pci", {}).get(machine.type)
        if entry is None:
            raise NotModelled(f"the PCI registers of {device.driver}")
        slot, function = device.devfn >> 3, device.devfn & 7
        place = {"bus": 0, "slot": slot, "function": function, "qdev_id": device.id or ""}
        shown.append({**entry, **place})
    shown.sort(key=lambda device: (device["slot"], device["function"]))
    return [{"bus": 0, "devices": shown}]
