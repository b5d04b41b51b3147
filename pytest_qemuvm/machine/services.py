"""What a VM needs of its session: where to put things, who runs things, whom to tell."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pytest_qemuvm.devices.kind import DeviceKind
    from pytest_qemuvm.host.loop import LoopThread
    from pytest_qemuvm.host.provision import Provisioner
    from pytest_qemuvm.machine.catalogue import Catalogue
    from pytest_qemuvm.machine.clones import LiveTemplates
    from pytest_qemuvm.machine.faults.ledger import FaultLedger
    from pytest_qemuvm.machine.networks.shelf import NetworkShelf
    from pytest_qemuvm.machine.observed import Observed
    from pytest_qemuvm.machine.template import Template
    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.machine.wardens import Wardens
    from pytest_qemuvm.spec.vm import VMSpec


class Registry(Protocol):
    """Who is told what becomes of a VM, and makes others."""

    def vm_started(self, vm: Observed) -> None:
        """Note that a VM has been launched."""

    def vm_deleted(self, vm: Observed) -> None:
        """Note that a VM is gone and its name is free."""

    def make_vm(self, name: str | None, spec: VMSpec, template: Template, owner: str) -> VM:
        """Make a VM, which is not started."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """What all VMs of a session share."""

    tag: str
    root: Path
    """The session's directory; each VM has its own below it."""
    loop: LoopThread
    provisioner: Provisioner
    registry: Registry
    kinds: Sequence[DeviceKind]
    """What can be plugged."""
    acting: Callable[[], str]
    """Return the test, module or session on whose behalf something is done now."""
    wardens: Wardens
    """Who judges what is sent to the VMs' monitors."""
    catalogue: Catalogue
    """What is known of QEMU's devices."""
    live_templates: LiveTemplates
    """What VMs are clones of."""
    faults: FaultLedger
    """What a test has go wrong in them."""
    networks: NetworkShelf
    """What their NICs are connected to."""
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def socket_path(self, kind: str = "serial") -> Path:
        """Return a path for a unix socket: private to the session, short, and never used before.

        Not in the VM's own directory: with its name, which may have 63 characters, it might be too long.
        """
        return self.root / f"{kind}@{next(self.numbers)}"  # an @ is in no VM's name
