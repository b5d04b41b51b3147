"""Random number generators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.devices.steps import AddDevice, AddObject, Fragment

if TYPE_CHECKING:
    from pytest_qemuvm.devices.place import Place


def rng(place: Place) -> Fragment:
    """Return a virtio RNG with its source on the host."""
    return Fragment(
        place.id,
        "rng",
        (
            AddObject("rng-random", f"{place.id}-src", {"filename": "/dev/urandom"}),
            AddDevice(place.virtio("rng"), place.id, place.on_bus(rng=f"{place.id}-src")),
        ),
    )
