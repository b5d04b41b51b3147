"""What has to be known of an architecture and of a machine type."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pytest_qemuvm.spec.devices import Transport


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine type of QEMU."""

    name: str
    options: str
    """The value of ``-machine``."""
    transport: Transport
    root_bus: str | None
    """The bus that built-in PCI devices sit on."""
    hotplug: Literal["root-port", "root-bus", "none"]
    """Where a PCI device can be plugged while the machine runs."""
    platform: tuple[str, ...]
    """The small devices it can have: ``vmgenid``, ``pvpanic``, ``display``."""
    memory_slots: bool
    """Whether DIMMs can be plugged."""
    keeps_time_emulated: bool
    """Whether a Linux finds a clock it can trust without hardware acceleration."""
    boots_disks: bool = True
    """Whether its firmware finds the disks that we give it."""
    append: str = ""
    """Words that the guest's kernel needs on this machine."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A processor architecture: one row."""

    name: str
    system: str
    """The binary is ``qemu-system-<system>``."""
    default_machine: str
    machines: tuple[Machine, ...]
    halt_firmware: bytes = field(repr=False)
    """A firmware image that stops the processor at once: what ``bare`` runs."""
