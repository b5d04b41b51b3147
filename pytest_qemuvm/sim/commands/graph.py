"""What the coherence check asks."""

from __future__ import annotations

from pytest_qemuvm.sim.words import NotModelled, QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.machine import Machine


def qom_list(machine: Machine, arguments: dict[str, Any]) -> list[dict[str, str]]:
    """Return the children of a container."""
    path = arguments["path"]
    found = [{"name": "type", "type": "string"}]
    if path == "/machine/peripheral":
        return found + [
            {"name": name, "type": f"child<{device['driver']}>"} for name, device in machine.devices.items()
        ]
    if path == "/objects":
        return found + [
            {"name": name, "type": f"child<{entry['qom-type']}>"} for name, entry in machine.objects.items()
        ]
    if path == "/machine/peripheral-anon":
        return found
    raise QmpRefusal(f"Device '{path}' not found", "DeviceNotFound")


def query_chardev(machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all character devices."""
    return [
        {"label": chardev.name, "filename": chardev.filename, "frontend-open": chardev.frontend_open}
        for chardev in machine.chardevs.values()
    ]


def query_named_block_nodes(_machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all block nodes."""
    return []


def query_jobs(_machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all jobs."""
    return []


def query_fdsets(machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all sets of descriptors."""
    return machine.fdsets.query()


def human_monitor_command(machine: Machine, arguments: dict[str, Any]) -> str:
    """Answer what the human monitor is asked, where that is modelled exactly."""
    line = arguments["command-line"]
    if line != "info network":
        raise NotModelled(f"the human monitor's command {line!r}")
    return "".join(f"{name}: index=0,type={netdev['type']}\r\n" for name, netdev in machine.netdevs.items())
