"""Memory: modules, and the resizable device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.devices.kind import DeviceKind
from pytest_qemuvm.devices.steps import AddDevice, AddObject, Fragment
from pytest_qemuvm.spec.devices import MemorySpec

if TYPE_CHECKING:
    from pytest_qemuvm.devices.kind import Bus, Parting, Supplies


def _fragment(spec: MemorySpec, supplies: Supplies) -> Fragment:
    name = supplies.place.id
    backend = AddObject("memory-backend-ram", f"{name}-mem", {"size": spec.bytes})
    memdev = {"memdev": f"{name}-mem"}
    if spec.kind == "dimm":
        return Fragment(name, "memory", (backend, AddDevice("pc-dimm", name, {**memdev, **spec.properties})))
    # It starts empty: what it should have is asked for when it is there.
    properties = supplies.place.on_bus(**memdev, **{"requested-size": 0}, **spec.properties)
    return Fragment(name, "memory", (backend, AddDevice("virtio-mem-pci", name, properties)))


def _seen(spec: MemorySpec, supplies: Supplies) -> str:
    """Return what holds in a guest that has it: every block of a module's address range is online."""
    if spec.kind != "dimm":
        return f"ls -d {supplies.facts['at']}/virtio*/driver"
    address = supplies.facts["address"]
    return (
        "block=$((0x$(cat /sys/devices/system/memory/block_size_bytes))); "
        f"for number in $(seq $(({address} / block)) $((({address} + {spec.bytes}) / block - 1))); do "
        "grep -q online /sys/devices/system/memory/memory$number/state || exit 1; done"
    )


def _bus(spec: MemorySpec) -> Bus:
    return "board" if spec.kind == "dimm" else "slot"


def _parting(spec: MemorySpec) -> Parting:
    return "asked" if spec.kind == "dimm" else "emptied"


MEMORY = DeviceKind("memory", MemorySpec, _bus, _fragment, _seen, parting=_parting, needs="address")
