"""What ``vm.faults`` gives: everything that a test can have go wrong in a machine, under one name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.machine.faults.disk import DiskFaults
from pytest_qemuvm.machine.faults.link import LinkFaults
from pytest_qemuvm.machine.faults.machine import MachineFaults

if TYPE_CHECKING:
    from pytest_qemuvm.machine.faults.ledger import Fault, FaultLedger
    from pytest_qemuvm.machine.vm import VM


class VMFaults(DiskFaults, LinkFaults, MachineFaults):
    """The faults of one VM."""

    def __init__(self, vm: VM, ledger: FaultLedger) -> None:
        self._vm = vm
        self._ledger = ledger

    def __repr__(self) -> str:
        return f"<faults of {self._vm.name}: {', '.join(fault.what for fault in self.active) or 'none'}>"

    @property
    def active(self) -> tuple[Fault, ...]:
        """Those of its present run, or of what has ended it, that have not healed."""
        return tuple(
            fault for fault in self._ledger.active() if fault.subject in (self._vm, self._vm.live or self._vm)
        )
