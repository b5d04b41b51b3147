"""Memory modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.devices.kind import DeviceKind
from pytest_qemuvm.devices.steps import AddDevice, AddObject, Fragment
from pytest_qemuvm.spec.devices import MemorySpec

if TYPE_CHECKING:
    from pytest_qemuvm.devices.kind import Supplies


def _fragment(spec: MemorySpec, supplies: Supplies) -> Fragment:
    name = supplies.place.id
    return Fragment(
        name,
        "dimm",
        (
            AddObject("memory-backend-ram", f"{name}-mem", {"size": spec.bytes}),
            AddDevice("pc-dimm", name, {"memdev": f"{name}-mem"}),
        ),
    )


def _seen(spec: MemorySpec, supplies: Supplies) -> str:
    """Every memory block of the module's address range is online."""
    address = supplies.facts["address"]
    return (
        "block=$((0x$(cat /sys/devices/system/memory/block_size_bytes))); "
        f"for number in $(seq $(({address} / block)) $((({address} + {spec.bytes}) / block - 1))); do "
        "grep -q online /sys/devices/system/memory/memory$number/state || exit 1; done"
    )


DIMM = DeviceKind("dimm", MemorySpec, lambda _spec: "board", _fragment, _seen, needs="address")
