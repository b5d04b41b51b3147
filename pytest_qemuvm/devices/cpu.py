"""Processors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_qemuvm.devices.kind import DeviceKind
from pytest_qemuvm.devices.steps import AddDevice, Fragment
from pytest_qemuvm.spec.devices import CpuSpec

if TYPE_CHECKING:
    from pytest_qemuvm.devices.kind import Supplies


def _fragment(_spec: CpuSpec, supplies: Supplies) -> Fragment:
    """Return a processor in a free socket: where it goes is what ``query-hotpluggable-cpus`` said."""
    slot: dict[str, Any] = dict(supplies.facts["slot"])
    return Fragment(supplies.place.id, "cpu", (AddDevice(supplies.facts["type"], supplies.place.id, slot),))


def _seen(_spec: CpuSpec, supplies: Supplies) -> str:
    return f"test $(grep -c ^processor /proc/cpuinfo) -ge {supplies.facts['count']}"


# DEVICE_DELETED comes only for the processor's interrupt controller, so the processors have to be counted.
CPU = DeviceKind(
    "cpu", CpuSpec, lambda _spec: "board", _fragment, _seen, parting=lambda _spec: "polled", needs="cpu"
)
