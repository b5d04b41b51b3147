"""What a client passes to QEMU, or has it open: character devices and descriptors."""

from __future__ import annotations

from pytest_qemuvm.sim.words import QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.machine import Machine
    from pytest_qemuvm.sim.monitor import Monitor


def query_chardev(machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all character devices, the newest first."""
    return [
        {"label": chardev.name, "filename": chardev.filename, "frontend-open": chardev.frontend_open}
        for chardev in reversed(machine.chardevs.values())
    ]


def chardev_add(machine: Machine, arguments: dict[str, Any], monitor: Monitor) -> dict[str, Any]:
    """Make a character device."""
    from pytest_qemuvm.sim import backends

    name = arguments["id"]
    if name in machine.chardevs:
        raise QmpRefusal(f"Chardev with id '{name}' already exists")
    backends.from_qmp(machine, name, arguments["backend"], monitor)
    return {}


def chardev_remove(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Remove a character device that nobody uses."""
    name = arguments["id"]
    chardev = machine.chardevs.get(name)
    if chardev is None:
        raise QmpRefusal(f"Chardev '{name}' not found")
    if chardev.user is not None:
        raise QmpRefusal(f"Chardev '{name}' is busy")
    chardev.close()
    del machine.chardevs[name]
    return {}


def add_fd(machine: Machine, arguments: dict[str, Any], monitor: Monitor) -> dict[str, int]:
    """Put the descriptor that came with the command into a set."""
    fd = monitor.chardev.take_descriptor()
    if fd < 0:
        raise QmpRefusal("No file descriptor supplied via SCM_RIGHTS")
    return machine.fdsets.add(fd, arguments.get("fdset-id"), arguments.get("opaque"))


def remove_fd(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Take a descriptor out of a set."""
    machine.fdsets.remove(arguments["fdset-id"], arguments.get("fd"))
    return {}


def query_fdsets(machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all sets of descriptors."""
    return machine.fdsets.query()


def getfd(_machine: Machine, arguments: dict[str, Any], monitor: Monitor) -> dict[str, Any]:
    """Give the descriptor that came with the command a name."""
    import os

    fd, name = monitor.chardev.take_descriptor(), arguments["fdname"]
    if fd < 0:
        raise QmpRefusal("No file descriptor supplied via SCM_RIGHTS")
    if name[:1].isdigit():
        os.close(fd)
        raise QmpRefusal("Parameter 'fdname' expects a name not starting with a digit")
    if name in monitor.descriptors:
        os.close(monitor.descriptors[name])
    monitor.descriptors[name] = fd
    return {}


def closefd(_machine: Machine, arguments: dict[str, Any], monitor: Monitor) -> dict[str, Any]:
    """Close a descriptor that was given a name."""
    import os

    name = arguments["fdname"]
    if name not in monitor.descriptors:
        raise QmpRefusal(f"File descriptor named '{name}' not found")
    os.close(monitor.descriptors.pop(name))
    return {}
