"""Power cuts: a machine and its disks lose their power at one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_qemuvm.host.write_log import Keep
    from pytest_qemuvm.machine.caches import PowerCut
    from pytest_qemuvm.machine.faults.ledger import FaultLedger
    from pytest_qemuvm.machine.vm import VM


class PowerFaults:
    """What happens to a VM's power."""

    def __init__(self, vm: VM, ledger: FaultLedger) -> None:
        self._vm = vm
        self._ledger = ledger

    def power_cut(self, *, keep: Keep = "none", seed: int | None = None) -> PowerCut:
        """Cut the power: the machine ends at once, and its disks lose what was in their caches.

        Of the disks that were given ``volatile_cache=True``, all is there that the guest had flushed. Of what
        it wrote after its last flush nothing is there (``keep="none"``), everything (``"all"``), or a subset
        by chance (``"random"``): the one of that ``seed``, or of one that is chosen and reported. The subset
        is of whole writes, which may survive in any order. Other disks keep what QEMU had written, as with
        ``kill()``. The VM is stopped then; ``start()`` boots it from what is left.

        Raises SpecError where no disk has such a cache, and NotRunning.
        """
        cut = self._vm.cut_power(keep, seed)
        self._ledger.note(f"power cut of VM {self._vm.name}, {cut}")
        return cut
