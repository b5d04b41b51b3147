"""Network interfaces, and what is behind them: user-mode networking, or a descriptor of the harness's."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.devices.kind import DeviceKind
from pytest_qemuvm.devices.steps import AddDevice, AddNetdev, AddPassedNetdev, Fragment
from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.spec.devices import NicSpec

if TYPE_CHECKING:
    from pytest_qemuvm.devices.kind import Supplies
    from pytest_qemuvm.devices.place import Place
    from pytest_qemuvm.spec.network import Link


BOOT_ROMS = {"virtio": "efi-virtio.rom", "e1000e": "efi-e1000e.rom"}
"""The boot ROMs that QEMU gives its NICs. They serve the BIOS too, whatever their names say."""


def nic(
    spec: NicSpec, place: Place, mac: str, link: Link | None = None, bootindex: int | None = None
) -> Fragment:
    """Return a NIC with its backend, which ``link`` says; None: user-mode networking of its own.

    With a ``bootindex`` the firmware may boot from it.
    """
    properties: dict[str, Any] = place.on_bus(netdev=f"{place.id}-net", mac=mac)
    if bootindex is not None:
        properties["bootindex"] = bootindex  # and QEMU's own boot ROM, which knows how
    elif place.transport == "pci":
        properties["romfile"] = ""  # a boot ROM costs time and nobody boots from the network unasked
    properties.update(spec.properties)
    driver = place.virtio("net") if spec.model == "virtio" else spec.model
    steps = _backends(spec, backend_of(place.id), link)
    return Fragment(place.id, "nic", (*steps, AddDevice(driver, place.id, properties)))


def backend_of(name: str) -> str:
    """Return the id of what is behind the NIC of that id; a descriptor for it has the same name."""
    return f"{name}-net"


def descriptors_of(name: str, link: Link | None) -> tuple[str, ...]:
    """Return the names of the descriptors that QEMU is handed for the NIC of that id."""
    if link is None or not link.passes_descriptor:
        return ()
    own = backend_of(name)
    return (own, f"{own}-line") if link.served else (own,)


def _backends(spec: NicSpec, name: str, link: Link | None) -> tuple[AddNetdev | AddPassedNetdev, ...]:
    """Return what is behind a NIC."""
    if link is not None and link.backend in ("dgram", "tap"):
        return (AddPassedNetdev(link.backend, name, name),)
    if link is not None and link.backend == "hub":
        return (AddNetdev("hubport", name, {"hubid": _hub(name)}),)
    user = _user(spec, name, link)
    return _served(user) if link is not None and link.served else (user,)


def _served(user: AddNetdev) -> tuple[AddNetdev | AddPassedNetdev, ...]:
    """Return two lines to the harness: one of the NIC's, one of user-mode networking's.

    Between them it has services of the host's. On one hub with the NIC, QEMU would hear what is for these,
    and reset each connection (libslirp 4.7, with ``restrict``).
    """
    name = user.id
    own, line = replace(user, id=f"{name}-user"), AddPassedNetdev("dgram", f"{name}-line", f"{name}-line")
    hub = _hub(name)
    ports = (
        AddNetdev("hubport", f"{each.id}-port", {"hubid": hub, "netdev": each.id}) for each in (own, line)
    )
    return own, line, *ports, AddPassedNetdev("dgram", name, name)


def _hub(name: str) -> int:
    """Return a number that no other NIC's hub has."""
    return zlib.crc32(name.encode()) >> 1


def _user(spec: NicSpec, name: str, link: Link | None) -> AddNetdev:
    """Return QEMU's user-mode networking.

    The host's port of a forward is 0: QEMU binds one that is free, on the loopback address only, and is asked
    for it afterwards. Choosing a free port beforehand would race with everybody else on the host.
    """
    backend: dict[str, Any] = {"restrict": not (link.outward if link else spec.outward)}
    if link is not None and link.subnet is not None:
        backend["net"] = link.subnet
    if spec.forward:
        backend["hostfwd"] = [{"str": f"tcp:127.0.0.1:0-:{port}"} for port in spec.forward]
    return AddNetdev("user", name, backend)


def _fragment(spec: NicSpec, supplies: Supplies) -> Fragment:
    assert supplies.mac is not None
    if spec.boot and supplies.bootindex is None:
        raise SpecError(
            "boot: the firmware boots only from NICs that a VM is started with",
            hint="nics=[NicSpec(..., boot=True)]",
        )
    return nic(spec, supplies.place, supplies.mac, supplies.link, supplies.bootindex)


def _seen(_spec: NicSpec, supplies: Supplies) -> str:
    return f"grep -qix {supplies.mac} /sys/class/net/*/address"


NIC = DeviceKind("nic", NicSpec, lambda _spec: "slot", _fragment, _seen, needs="mac")
