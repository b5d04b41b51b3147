"""How PCI devices show themselves on a root bus, before any firmware has given them addresses."""

from __future__ import annotations

from typing import Any

from pytest_qemuvm.sim.record_asked import Recorded
from pytest_qemuvm.sim.record_devices import BACKENDS

_BACKENDS = (
    *("-blockdev", "driver=null-co,node-name=node,size=1048576", "-netdev", "user,id=net"),
    *("-chardev", "null,id=char", "-object", "rng-builtin,id=rng", "-object", "iothread,id=thread"),
    *("-object", "memory-backend-ram,id=mem,size=128M", "-m", "size=256M,slots=4,maxmem=4352M"),
)
_NEEDED = frozenset({"drive", "chardev", "memdev", "rng"})
_PLACE = ("bus", "slot", "function", "qdev_id")


def record(binary: str, pieces: dict[str, Any]) -> None:
    """Add ``pci/<machine>``, the chipset's devices, and to each PCI device a ``pci`` by machine."""
    for machine in ("q35", "pc", "microvm"):
        with Recorded(binary, "-machine", machine) as qemu:
            pieces[f"pci/{machine}"] = qemu.ask("query-pci")
    for name, piece in pieces.items():
        if name.startswith("device/") and piece.get("bus") == "PCI" and piece.get("user"):
            driver = name.removeprefix("device/")
            needs = {entry["name"] for entry in piece["properties"]} & _NEEDED
            found = {machine: _shown(binary, machine, driver, needs) for machine in ("q35", "pc")}
            piece["pci"] = {machine: entry for machine, entry in found.items() if entry is not None}


def _shown(binary: str, machine: str, driver: str, needs: set[str]) -> dict[str, Any] | None:
    """Return a device as ``query-pci`` shows it; None where QEMU does not start with it."""
    given = "".join(f",{key}={BACKENDS[key][2]}" for key in sorted(needs))
    try:
        with Recorded(binary, "-machine", machine, *_BACKENDS, "-device", f"{driver},id=it{given}") as qemu:
            buses = qemu.ask("query-pci")
    except (OSError, ValueError):
        return None
    for device in buses[0]["devices"]:
        if device["qdev_id"] == "it":
            return {key: value for key, value in device.items() if key not in _PLACE}
    return None
