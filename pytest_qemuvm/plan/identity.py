"""What makes one machine differ from all others, derived so that a plan is the same every time."""

from __future__ import annotations

import hashlib


def mac_address(tag: str, vm: str, index: int) -> str:
    """Return a locally administered unicast address for a VM's NIC.

    It keeps QEMU's first two bytes and takes four from a hash of session, VM and index, so that VMs of all
    sessions on a host differ without having to ask each other.
    """
    digest = hashlib.blake2s(f"{tag}/{vm}/{index}".encode(), digest_size=4).digest()
    return ":".join(f"{byte:02x}" for byte in (0x52, 0x54, *digest))
