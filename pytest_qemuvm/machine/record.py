"""What is believed of a VM: written down when its state is changed in order, and compared by the check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_qemuvm.machine.live import Live

_HALTS = ("GUEST_PANICKED", "SHUTDOWN", "BLOCK_IO_ERROR", "WATCHDOG")
"""Events that QEMU sends before it stops the processors for a reason of its own."""


@dataclass
class VMRecord:
    """What was recorded of a VM, to be compared with what is the case; tests may falsify it."""

    name: str
    state: str = "stopped"
    """``stopped``, ``running`` or ``paused``."""
    pid: int | None = None
    starts: int = 0
    """How often it was started."""


class Recorder:
    """Keeps the record of one VM."""

    def __init__(self, name: str) -> None:
        self.record = VMRecord(name)
        self._noted = 0
        """The number of the newest event that the record takes into account."""

    def started(self, live: Live) -> None:
        """Note that QEMU has been started."""
        self.record.state, self.record.pid = "running", live.process.pid
        self.record.starts += 1
        self._noted = live.qmp.events.last

    def stopped(self) -> None:
        """Note that QEMU has ended in order."""
        self.record.state, self.record.pid = "stopped", None

    def switched(self, live: Live, state: str) -> None:
        """Note that the processors were stopped or started."""
        self.record.state, self.record.pid = state, live.process.pid
        self._noted = live.qmp.events.last

    def follow(self, live: Live) -> None:
        """Note that the test had the processors stopped or started by a command of its own."""
        events = live.qmp.events
        last = events.last
        if last == self._noted:
            return
        newer = events.since(self._noted, (*_HALTS, "STOP", "RESUME"))
        if newer and newer[-1].name == "RESUME":
            self.record.state = "running"
        elif newer and {event.name for event in newer}.intersection(_HALTS):
            # They stopped for another reason, which is a state of its own until they run again.
            return
        elif newer:
            self.record.state = "paused"
        self._noted = newer[-1].seq if newer else last
