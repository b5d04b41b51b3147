"""Memory that was plugged: modules in slots, and the resizable device."""

from __future__ import annotations

from pytest_qemuvm.sim.words import QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.devices import Device
    from pytest_qemuvm.sim.machine import Machine

_GIB = 1 << 30
_BASE = 4 * _GIB
_BLOCK = 2 << 20
"""The granularity of the resizable device on this host: that of its transparent huge pages."""


class Module:
    """A piece of memory that was plugged."""

    def __init__(self, device: Device, address: int, size: int, slot: int) -> None:
        self.device = device
        self.address = address
        self.size = size
        self.slot = slot
        self.requested = 0


def plug(machine: Machine, device: Device) -> None:
    """Give memory its slot and its address. Raises QmpRefusal."""
    name = device.given.get("memdev")
    virtual = device.driver == "virtio-mem-pci"
    if name is None:
        old = machine.version < (10, 0)
        raise QmpRefusal(
            "'memdev' property is not set" if virtual or old else "'memdev' property must be set"
        )
    backend = machine.objects[str(name)]
    size = backend.properties["size"]
    if any(module.device.given["memdev"] == name for module in machine.modules.values()):
        raise QmpRefusal(f"can't use already busy memdev: {name}")
    if not virtual and len(_slots(machine)) >= machine.memory_slots:
        raise QmpRefusal(f"no free memory slots available (limit: {machine.memory_slots})")
    used = sum(module.size for module in machine.modules.values())
    room = machine.memory_most - machine.memory
    if used + size > room:
        raise QmpRefusal(
            f"not enough space, currently 0x{used:x} in use of total space for memory devices 0x{room:x}"
        )
    slot = next(number for number in range(256) if number not in _slots(machine))
    module = Module(device, _free(machine, size), size, -1 if virtual else slot)
    if virtual:
        module.requested = device.given.get("requested-size", 0)
        _check_request(module, module.requested)
    machine.modules[device.path] = module
    device.found.update({"slot": slot, "addr": module.address, "size": size})


def _slots(machine: Machine) -> set[int]:
    return {module.slot for module in machine.modules.values() if module.slot >= 0}


def _free(machine: Machine, size: int) -> int:
    """Return the lowest address that has room."""
    address = _BASE + max(0, machine.memory - 2 * _GIB) if machine.memory > 2 * _GIB else _BASE
    for module in sorted(machine.modules.values(), key=lambda module: module.address):
        if address + size <= module.address:
            break
        address = module.address + module.size
    return address


def _check_request(module: Module, size: int) -> None:
    if size > module.size:
        raise QmpRefusal(f"'requested-size' cannot exceed the memory backend size(0x{module.size:x})")
    if size % _BLOCK:
        raise QmpRefusal(f"'requested-size' has to be multiples of 'block-size' (0x{_BLOCK:x})")


def request(machine: Machine, device: Device, size: int) -> None:
    """Set how much of a resizable device the guest should take. Raises QmpRefusal."""
    module = machine.modules[device.path]
    if size > module.size:
        raise QmpRefusal(f"'requested-size' cannot exceed the memory backend size(0x{module.size:x})")
    if size % _BLOCK:
        raise QmpRefusal(f"'requested-size' has to be multiples of 'block-size' (0x{_BLOCK:x})")
    module.requested = size


def described(machine: Machine) -> list[dict[str, Any]]:
    """Return all modules, as ``query-memory-devices`` does: by their addresses."""
    found: list[dict[str, Any]] = []
    for module in sorted(machine.modules.values(), key=lambda module: module.address):
        device = module.device
        memdev = f"/objects/{device.given['memdev']}"
        data: dict[str, Any] = {"node": device.given.get("node", 0), "memdev": memdev}
        if device.id is not None:
            data["id"] = device.id
        if device.driver == "virtio-mem-pci":
            data |= {
                "memaddr": module.address,
                "requested-size": module.requested,
                "size": 0,
                "max-size": module.size,
                "block-size": _BLOCK,
            }
            found.append({"type": "virtio-mem", "data": data})
        else:
            data |= {
                "addr": module.address,
                "slot": module.slot,
                "size": module.size,
                "hotplugged": device.hotplugged,
                "hotpluggable": True,
            }
            found.append({"type": "dimm", "data": data})
    return found
