"""Random number generators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.devices.kind import DeviceKind
from pytest_qemuvm.devices.steps import AddDevice, AddObject, Fragment
from pytest_qemuvm.spec.devices import RngSpec

if TYPE_CHECKING:
    from pytest_qemuvm.devices.kind import Supplies
    from pytest_qemuvm.devices.place import Place


def rng(place: Place, spec: RngSpec = RngSpec()) -> Fragment:  # noqa: B008  # a frozen value
    """Return a virtio RNG with its source on the host."""
    properties = {**place.on_bus(rng=f"{place.id}-src"), **spec.properties}
    return Fragment(
        place.id,
        "rng",
        (
            AddObject("rng-random", f"{place.id}-src", {"filename": "/dev/urandom"}),
            AddDevice(place.virtio("rng"), place.id, properties),
        ),
    )


def _fragment(spec: RngSpec, supplies: Supplies) -> Fragment:
    return rng(supplies.place, spec)


def _seen(_spec: RngSpec, supplies: Supplies) -> str:
    return f"ls -d {supplies.facts['at']}/virtio*/driver"


RNG = DeviceKind("rng", RngSpec, lambda _spec: "slot", _fragment, _seen)
