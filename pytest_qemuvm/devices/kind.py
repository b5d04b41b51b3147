"""A kind of device that can be plugged into a running machine: fragment, bus, and sign in the guest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_qemuvm.devices.place import Image, Place
    from pytest_qemuvm.devices.steps import Fragment
    from pytest_qemuvm.spec.devices import DeviceSpec
    from pytest_qemuvm.spec.network import Link

Bus = Literal["slot", "scsi", "usb", "vserial", "board"]
"""Where a device sits: a PCI slot, one of the built-in controllers, or the board itself (CPU, memory)."""

Parting = Literal["asked", "at once", "polled", "emptied"]
"""How a device goes: the guest is asked, and QEMU tells when it agreed; without the guest being asked; or
without QEMU telling, so that it has to be looked at; or it only gives back what it holds and stays."""


@dataclass(frozen=True, slots=True)
class Supplies:
    """What the engine gives a kind to make its fragment of."""

    place: Place
    image: Image | None = None
    mac: str | None = None
    path: str | None = None
    """Where a unix socket of the device's may be."""
    bootindex: int | None = None
    """When the firmware tries to boot it; None: never."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the machine was asked before, such as the address of a free CPU."""
    link: Link | None = None
    """How a NIC is connected; None: by user-mode networking of its own."""


@dataclass(frozen=True, slots=True)
class DeviceKind:
    """One kind. Everything in it is data or pure, so that a plug can be planned before it is done."""

    name: str
    """Also the first part of its devices' ids."""
    spec: type[DeviceSpec]
    bus: Callable[[Any], Bus]
    fragment: Callable[[Any, Supplies], Fragment]
    seen: Callable[[Any, Supplies], str | None] | None = None
    """A shell command that succeeds in a guest that has the device; None: the guest has no say."""
    parting: Callable[[Any], Parting] = lambda _spec: "asked"
    needs: Literal["image", "mac", "path", "cpu", "address"] | None = None
    """What the engine has to supply."""
