"""What makes one machine differ from all others, derived so that a plan is the same every time."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_qemuvm.spec.devices import NicSpec


def numbered_nics(nics: Iterable[NicSpec], tag: str, vm: str) -> Iterator[tuple[str, NicSpec, str]]:
    """Yield the NICs of a VM's spec, each with its id and the MAC address that it will have."""
    for index, nic in enumerate(nics):
        yield f"nic{index}", nic, nic.mac or mac_address(tag, vm, index)


def mac_address(tag: str, vm: str, index: int) -> str:
    """Return a locally administered unicast address for a VM's NIC.

    It keeps QEMU's first two bytes and takes four from a hash of session, VM and index, so that VMs of all
    sessions on a host differ without having to ask each other.
    """
    digest = hashlib.blake2s(f"{tag}/{vm}/{index}".encode(), digest_size=4).digest()
    return ":".join(f"{byte:02x}" for byte in (0x52, 0x54, *digest))
