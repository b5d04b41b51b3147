"""Questions that have one answer on any machine that can be had here."""

from __future__ import annotations

from pytest_qemuvm.sim.words import NotModelled, QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.machine import Machine


def query_tpm(_machine: Machine, _arguments: dict[str, Any]) -> list[Any]:
    """Return all TPMs: none can be had."""
    return []


def query_replay(_machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the state of record and replay, which cannot be had."""
    return {"icount": 0, "mode": "none"}


def query_vnc(_machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the state of the VNC server, which cannot be had."""
    return {"enabled": False}


def query_spice(_machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the state of the SPICE server, which cannot be had."""
    return {"enabled": False, "migrated": False, "mouse-mode": "client"}


def query_dump(_machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a memory dump, of which there never was one."""
    return {"completed": 0, "status": "none", "total": 0}


def query_migrate(_machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a migration, of which there never was one."""
    return {}


def query_machines(machine: Machine, _arguments: dict[str, Any]) -> Any:
    """Return the machine types."""
    return machine.archive.get("machines")


def query_current_machine(machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Return what the machine can do."""
    return {"wakeup-suspend-support": machine.type in {"q35", "pc"}}


def query_yank(machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, str]]:
    """Return what could be yanked: the sockets."""
    chardevs = machine.chardevs.values()
    return [{"type": "chardev", "id": dev.name} for dev in chardevs if dev.kind == "chardev-socket"]


def query_rx_filter(machine: Machine, _arguments: dict[str, Any]) -> list[Any]:
    """Return the filters of network interfaces, which drivers in a guest set."""
    if any(device.has("netdev") for device in machine.devices.all()):
        raise NotModelled("filters of network interfaces")
    return []


def query_mice(machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pointing devices: the PS/2 mouse, where there is no other."""
    if machine.type == "microvm" or any(device.driver.startswith("usb-") for device in machine.devices.all()):
        raise NotModelled("pointing devices beside the PS/2 mouse")
    return [{"absolute": False, "current": True, "index": 2, "name": "QEMU PS/2 Mouse"}]


def query_acpi_ospm_status(machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the guest last said of each memory slot: nothing."""
    if machine.cpus or any(module.slot >= 0 for module in machine.modules.values()):
        raise NotModelled("what a guest says of plugged memory and processors")
    return [
        {"slot": str(slot), "slot-type": "DIMM", "source": 0, "status": 0}
        for slot in range(machine.memory_slots)
    ]


def x_query_usb(machine: Machine, _arguments: dict[str, Any]) -> dict[str, str]:
    """Return ``info usb`` for programs."""
    from pytest_qemuvm.sim import hmp

    if not any(bus.kind == "usb-bus" for bus in machine.devices.buses):
        raise QmpRefusal("USB support not enabled")
    return {"human-readable-text": hmp.usb(machine).replace("\r\n", "\n")}


def inject_nmi(_machine: Machine, _arguments: dict[str, Any]) -> dict[str, Any]:
    """Interrupt the processors, which nobody notices where no code runs."""
    return {}
