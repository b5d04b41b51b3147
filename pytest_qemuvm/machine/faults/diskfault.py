"""The handle of a disk's fault, which can tell whether it has been met."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import SpecError, WaitTimeout
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.faults.layers import Failing, find_drive, is_of
from pytest_qemuvm.machine.faults.ledger import Fault

if TYPE_CHECKING:
    from pytest_qemuvm.machine.faults.layers import Effect
    from pytest_qemuvm.machine.faults.ledger import FaultLedger
    from pytest_qemuvm.machine.hotdevice import HotDevice
    from pytest_qemuvm.machine.live import Live

HIT_SECONDS = 30.0
_LOOK_SECONDS = 0.01
_FAILED = {
    "read": "failed_rd_operations",
    "write": "failed_wr_operations",
    "discard": "failed_unmap_operations",
    "flush": "failed_flush_operations",
}
"""QEMU's counters of failed requests, by the kind of request."""


class DiskFault(Fault):
    """A fault of one disk."""

    def __init__(
        self,
        ledger: FaultLedger,
        what: str,
        owner: str,
        subject: object,
        *,
        live: Live,
        device: HotDevice,
        effect: Effect,
    ) -> None:
        super().__init__(ledger, what, owner, subject)
        self.device = device
        """The disk."""
        self.effect = effect
        """What it does; for the harness."""
        self._live = live
        self._since = live.qmp.events.last
        self._before = self._count()
        self._last = 0

    @property
    def hits(self) -> int:
        """How many requests of its kinds have failed on its disk since it began, as QEMU counts them.

        Those of other faults of the same kinds on the same disk are among them. Once it is over, the number
        as it was asked for last.
        """
        if self.active and self.device.present:
            # A request that stopped the machine is counted at once on SCSI and USB, on virtio never.
            self._last = max(self._count() - self._before, self._stops())
        return self._last

    @property
    def is_spent(self) -> bool:
        """Whether it was to happen once, and has."""
        hits = self.hits  # asked for before each change, so that it is known when the fault is over
        return isinstance(self.effect, Failing) and self.effect.once and hits > 0

    @property
    def stopped_machine(self) -> bool:
        """Whether the machine stands still because of a request of its kinds; for the harness."""
        return isinstance(self.effect, Failing) and self._stops() > 0

    def wait_hit(self, timeout: float = HIT_SECONDS) -> None:
        """Wait until a request has failed of it; ``timeout`` in seconds.

        Raises WaitTimeout, and SpecError for a fault of which nothing fails.
        """
        if not self._kinds():
            raise SpecError(f"of this fault nothing fails: {self.what}")
        deadline = Deadline.after(timeout)
        pause = threading.Event()
        # NVMe disks announce nothing, and QEMU 10 tells of one error a second: its counters are always right.
        while not self.hits:
            if deadline.expired or not self.active:
                raise WaitTimeout(
                    f"no request has failed of it within {timeout:g} s: {self.what}",
                    waited_for="a request that fails",
                    seconds=timeout,
                )
            pause.wait(_LOOK_SECONDS)

    def _kinds(self) -> tuple[str, ...]:
        return self.effect.iotypes if isinstance(self.effect, Failing) else ()

    def _count(self) -> int:
        """Return how many requests of its kinds have failed on the disk since the machine was launched."""
        if not self._kinds():
            return 0
        stats = self._live.qmp.execute("query-blockstats")
        mine = [entry["stats"] for entry in stats if is_of(entry, self.device)]
        return sum(each[key] for each in mine for kind, key in _FAILED.items() if kind in self._kinds())

    def _stops(self) -> int:
        """Return 1 where a request of its kinds stopped the machine and waits to be tried again."""
        drive = find_drive(self._live, self.device)
        if drive is None or drive.get("io-status", "ok") == "ok":
            return 0
        # QEMU calls flushes and discards writes.
        said = {"read" if kind == "read" else "write" for kind in self._kinds()}
        events = self._live.qmp.events.since(self._since, "BLOCK_IO_ERROR")
        stops = [event for event in events if event.data["action"] == "stop"]
        mine = [event for event in stops if event.data["node-name"].startswith(f"{self.device.id}-fault")]
        return 1 if mine and mine[-1].data["operation"] in said else 0
