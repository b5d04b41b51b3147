"""Ports of the virtio-serial controller: the agent's, and those that a test asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.devices.kind import DeviceKind
from pytest_qemuvm.devices.steps import AddDevice, AddListeningChardev, AddSocketChardev, Fragment
from pytest_qemuvm.spec.devices import SerialSpec
from pytest_qemuvm.spec.properties import NO_PROPERTIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_qemuvm.devices.kind import Supplies
    from pytest_qemuvm.devices.place import Place


def serial_port(place: Place, name: str, fd: str, more: Mapping[str, object] = NO_PROPERTIES) -> Fragment:
    """Return a port that the guest finds as ``/dev/virtio-ports/<name>``; the harness holds the other end.

    ``more`` are further properties of the device.
    """
    chardev = f"{place.id}-chr"
    properties = {"bus": place.bus, "chardev": chardev, "name": name, **more}
    return Fragment(
        place.id,
        "serial",
        (AddSocketChardev(chardev, fd), AddDevice("virtserialport", place.id, properties)),
    )


def _fragment(spec: SerialSpec, supplies: Supplies) -> Fragment:
    assert supplies.path is not None
    name, chardev = supplies.place.id, f"{supplies.place.id}-chr"
    properties = {"bus": supplies.place.bus, "chardev": chardev, "name": spec.name, **spec.properties}
    return Fragment(
        name,
        "serial",
        (AddListeningChardev(chardev, supplies.path), AddDevice("virtserialport", name, properties)),
    )


def _seen(spec: SerialSpec, _supplies: Supplies) -> str:
    return f"test -e /dev/virtio-ports/{spec.name}"


SERIAL = DeviceKind(
    "serial",
    SerialSpec,
    lambda _spec: "vserial",
    _fragment,
    _seen,
    parting=lambda _spec: "at once",
    needs="path",
)
