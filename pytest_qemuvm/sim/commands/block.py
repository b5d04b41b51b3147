"""Block nodes and the drives that use them."""

from __future__ import annotations

from pytest_qemuvm.sim.block import info
from pytest_qemuvm.sim.words import NotModelled, QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.block.nodes import Node
    from pytest_qemuvm.sim.machine import Machine


def blockdev_add(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Open a node."""
    machine.graph.add(arguments)
    return {}


def blockdev_del(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Close a node that nobody uses."""
    name = arguments["node-name"]
    node = machine.graph.find(name)
    if node is None:
        raise QmpRefusal(f"Failed to find node with node-name='{name}'")
    machine.graph.remove(node)
    return {}


def query_named_block_nodes(machine: Machine, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all nodes, the newest first."""
    flat = bool(arguments.get("flat", False))
    return [info.block_device(node, machine.version, flat=flat) for node in reversed(machine.graph.nodes)]


def query_block(machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all drives."""
    return [drive.described(machine.version) for drive in machine.drives.values()]


def block_resize(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Change the size of a node: of a raw file in truth; of a format only what the process knows of it."""
    name = arguments.get("node-name", "")
    device = arguments.get("device", "")
    node = machine.graph.find(name)
    if node is None:
        raise QmpRefusal(f"Cannot find device='{device}' nor node-name='{name}'")
    size = arguments["size"]
    if size < 0:
        raise QmpRefusal("Parameter 'size' expects a >0 size")
    _resize(machine, node, size)
    return {}


def _resize(machine: Machine, node: Node, size: int) -> None:
    import os

    from pytest_qemuvm.sim.block.locks import ALL, RESIZE

    if node.read_only:
        raise QmpRefusal("Image is read-only")
    edge = machine.graph.use(node, "an unnamed block device", RESIZE, ALL)
    try:
        if node.driver == "qcow2":
            _resize_qcow2(node, size)
            return
        below = node.child("file") if node.driver == "raw" else node
        if below is None or below.driver not in {"file", "null-co", "null-aio"}:
            raise NotModelled(f"resizing a node of driver {node.driver!r}")
        if below.fd < 0:
            raise QmpRefusal("Image format driver does not support resize")
        os.ftruncate(below.fd, size)
        below.size = node.size = size
    finally:
        from pytest_qemuvm.sim.block.nodes import detach

        detach(edge)


def _resize_qcow2(node: Node, size: int) -> None:
    """Write the size into the image's header, where its tables have room for it."""
    import os

    below = node.child("file")
    if below is None or below.fd < 0 or size < node.size:
        raise NotModelled("making a qcow2 image smaller")
    if size > node.header.room:
        raise NotModelled("new tables for a qcow2 image")
    os.pwrite(below.fd, size.to_bytes(8, "big"), 24)
    node.size = node.header.size = size


def _drive(machine: Machine, arguments: dict[str, Any]) -> Any:
    """Return the drive that a command about a tray means. Raises QmpRefusal."""
    name = arguments.get("id", arguments.get("device", ""))
    device = machine.devices.named.get(name)
    if device is None:
        raise QmpRefusal(f"Device '{name}' not found", "DeviceNotFound")
    if device.drive is None or (not device.drive.removable and device.drive.path != name):
        raise QmpRefusal("Device does not have a block device backend")
    return device.drive


def _tray(machine: Machine, arguments: dict[str, Any]) -> Any:
    """Return the drive whose tray a command moves or looks into. Raises QmpRefusal."""
    drive = _drive(machine, arguments)
    if not drive.removable:
        raise QmpRefusal(f"Device '{drive.device}' is not removable")
    return drive


def _move_tray(machine: Machine, drive: Any, *, opened: bool) -> None:
    if drive.tray_open != opened:
        drive.tray_open = opened
        machine.emit("DEVICE_TRAY_MOVED", {"device": "", "tray-open": opened, "id": drive.device})


def blockdev_open_tray(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Open a tray; the guest, whoever it is, has not locked it."""
    drive = _tray(machine, arguments)
    _move_tray(machine, drive, opened=True)
    return {}


def blockdev_close_tray(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Close a tray."""
    drive = _tray(machine, arguments)
    _move_tray(machine, drive, opened=False)
    return {}


def blockdev_remove_medium(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Take the medium out of an open tray."""
    drive = _tray(machine, arguments)
    if not drive.tray_open:
        raise QmpRefusal(f"Tray of device '{drive.device}' is not open")
    drive.remove()
    return {}


def blockdev_insert_medium(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Put a medium into an open tray."""
    name = arguments["node-name"]
    drive = _drive(machine, arguments)
    node = machine.graph.find(name)
    if node is None:
        raise QmpRefusal(f"Node '{name}' not found")
    if any(edge.role == "root" for edge in node.parents):
        raise QmpRefusal(f"Node '{name}' is already in use")
    if not drive.removable:
        raise QmpRefusal("Device is not removable")
    if not drive.tray_open:
        raise QmpRefusal("Tray of the device is not open")
    if drive.node is not None:
        raise QmpRefusal("There already is a medium in the device")
    drive.insert(node)
    return {}


def eject(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Open a tray and take the medium out."""
    drive = _tray(machine, arguments)
    _move_tray(machine, drive, opened=True)
    drive.remove()
    return {}


def query_blockstats(machine: Machine, _arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was read and written: nothing can be said of it where there are drives."""
    if machine.drives:
        raise NotModelled("statistics of drives")
    return []


def blockdev_snapshot(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Put an overlay over a node: who used the node uses the overlay from now on."""
    from pytest_qemuvm.sim.block.graph import check_not_below
    from pytest_qemuvm.sim.block.nodes import Edge, move_users, refresh

    node, overlay = (_named(machine, arguments[key]) for key in ("node", "overlay"))
    check_not_below(node)
    if overlay.parents:
        raise QmpRefusal("The overlay is already in use")
    if overlay.driver != "qcow2":
        raise QmpRefusal("The overlay does not support backing images")
    if "backing" in overlay.children:
        raise QmpRefusal("The overlay already has a backing image")
    edge = Edge(node, "backing", overlay)
    move_users(node, overlay)
    overlay.children["backing"] = edge
    node.parents.append(edge)
    # QEMU opens it anew for reading alone, and with it what was opened for it.
    node.read_only = True
    below = node.child("file")
    if below is not None and below.implicit:
        below.read_only = True
    refresh(overlay)
    return {}


def _named(machine: Machine, name: str) -> Node:
    node = machine.graph.find(name)
    if node is None:
        raise QmpRefusal(f"Cannot find device='{name}' nor node-name='{name}'")
    return node


def transaction(_machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Do several things or none; none is what is modelled."""
    if arguments["actions"]:
        raise NotModelled("transactions")
    return {}
