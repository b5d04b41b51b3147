"""Networks as a test asks for them, and how one NIC is connected to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.spec.addresses import checked_device, parse_subnet
from pytest_qemuvm.spec.devices import one_of, switch

NetworkKind = Literal["segment", "user", "tap", "bridge"]

USER_SUBNET = "10.0.2.0/24"
"""What QEMU's user-mode networking uses unless told otherwise."""
USER_GATEWAY, USER_SERVICES, USER_GUEST = 2, 5, 15
"""The numbers in that subnet of the host as a guest sees it, of services, and of the guest."""


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """A network of a test's.

    ``segment``: an Ethernet between the test's VMs, without privileges. ``user``: each VM for itself on
    QEMU's user-mode networking. ``bridge``: a bridge of the host's with a TAP for each NIC, and ``tap``: a
    TAP for each NIC and nothing between them; both need privileges.
    """

    kind: NetworkKind = "segment"
    subnet: str | None = None
    """IPv4, such as ``"192.168.7.0/24"``; left out, one that no other network of the session has."""
    addressing: bool = True
    """Whether VMs are given addresses and names. False: a bare wire, on which a guest may do that itself."""
    outward: bool = False
    """With ``user``: the guests reach the host's network."""
    device: str | None = None
    """With ``bridge``: the name that the bridge is to have on the host; left out, one of the session's."""

    def __post_init__(self) -> None:
        one_of(self.kind, NetworkKind, "kind of network")
        switch(self.addressing, "addressing")
        switch(self.outward, "outward")
        if self.subnet is not None:
            object.__setattr__(self, "subnet", str(parse_subnet(self.subnet)))
        if self.outward and self.kind != "user":
            raise SpecError(f"outward=True is for kind='user', not {self.kind!r}")
        if self.device is not None:
            if self.kind != "bridge":
                raise SpecError(f"device= names a bridge, and kind is {self.kind!r}")
            checked_device(self.device)
        if not self.addressing and self.kind == "user":
            raise SpecError("addressing=False is not for kind='user': QEMU hands out addresses there")


def domain_of(name: str) -> str:
    """Return the domain of a network's names: below one that is reserved for tests (RFC 6761)."""
    from pytest_qemuvm.spec.segment import is_host  # noqa: PLC0415  # few suites have networks

    return f"{name.lower()}.test" if is_host(name) else "test"


@dataclass(frozen=True, slots=True)
class Link:
    """How a NIC is connected to a network, as its plan has it."""

    network: str
    """The network's name."""
    backend: Literal["user", "dgram", "tap", "hub"]
    """What is behind it in QEMU; a ``hub`` with nobody else on it connects it to nobody."""
    ip: str | None = None
    """The address that is the NIC's; None where nobody hands any out."""
    prefix: int = 24
    """How long the network's part of it is, in bits."""
    resolver: str | None = None
    """Who resolves names there."""
    domain: str | None = None
    subnet: str | None = None
    """With ``user``: the network that QEMU makes up for the guest."""
    outward: bool = False
    """With ``user``: whether the guest reaches the host's network."""
    served: bool = False
    """With ``user``: whether services of the host's are between the guest and what QEMU makes up."""
    commands: tuple[tuple[str, ...], ...] = ()
    """What makes it on the host; in a network dry-run what would make it."""

    def told(self, mac: str) -> str:
        """Return the word by which the built-in guest is told of it, for the NIC with that MAC address."""
        if self.ip is None:
            return f"{mac}="
        mask = ".".join(str(byte) for byte in (0xFFFFFFFF << (32 - self.prefix) & 0xFFFFFFFF).to_bytes(4))
        return "=".join((mac, self.ip, mask, self.resolver or "", self.domain or ""))

    @property
    def passes_descriptor(self) -> bool:
        """Whether QEMU is handed an open descriptor to send and receive frames on."""
        return self.served or self.backend in ("dgram", "tap")
