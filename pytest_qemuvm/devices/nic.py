"""Network interfaces on user-mode networking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_qemuvm.devices.kind import DeviceKind
from pytest_qemuvm.devices.steps import AddDevice, AddNetdev, Fragment
from pytest_qemuvm.spec.devices import NicSpec

if TYPE_CHECKING:
    from pytest_qemuvm.devices.kind import Supplies
    from pytest_qemuvm.devices.place import Place


def nic(spec: NicSpec, place: Place, mac: str) -> Fragment:
    """Return a NIC with its user-mode backend.

    The host's port of a forward is 0: QEMU binds one that is free, on the loopback address only, and is asked
    for it afterwards. Choosing a free port beforehand would race with everybody else on the host.
    """
    backend: dict[str, Any] = {"restrict": not spec.outward}
    if spec.forward:
        backend["hostfwd"] = [{"str": f"tcp:127.0.0.1:0-:{port}"} for port in spec.forward]
    properties: dict[str, Any] = place.on_bus(netdev=f"{place.id}-net", mac=mac)
    if place.transport == "pci":
        properties["romfile"] = ""  # a boot ROM costs time and nobody boots from the network unasked
    properties.update(spec.properties)
    driver = place.virtio("net") if spec.model == "virtio" else spec.model
    return Fragment(
        place.id,
        "nic",
        (AddNetdev("user", f"{place.id}-net", backend), AddDevice(driver, place.id, properties)),
    )


def _fragment(spec: NicSpec, supplies: Supplies) -> Fragment:
    assert supplies.mac is not None
    return nic(spec, supplies.place, supplies.mac)


def _seen(_spec: NicSpec, supplies: Supplies) -> str:
    return f"grep -qix {supplies.mac} /sys/class/net/*/address"


NIC = DeviceKind("nic", NicSpec, lambda _spec: "slot", _fragment, _seen, needs="mac")
