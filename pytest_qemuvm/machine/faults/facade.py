"""What ``vm.faults`` gives: everything that a test can have go wrong in a machine, under one name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.machine.faults.disk import DiskFaults

if TYPE_CHECKING:
    from pytest_qemuvm.machine.faults.ledger import Fault, FaultLedger
    from pytest_qemuvm.machine.vm import VM


class VMFaults(DiskFaults):
    """The faults of one VM."""

    def __init__(self, vm: VM, ledger: FaultLedger) -> None:
        self._vm = vm
        self._ledger = ledger

    @property
    def active(self) -> tuple[Fault, ...]:
        """Those of its present run that have not healed."""
        live = self._vm.live
        return tuple(self._ledger.active(subject=live)) if live is not None else ()
