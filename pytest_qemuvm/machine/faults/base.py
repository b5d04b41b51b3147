"""What all faults of a machine share: how they reach it, and when there is nothing left to mend."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import NoChannel, NotRunning, QemuVMError
from pytest_qemuvm.host.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_qemuvm.guest.agent import AgentChannel
    from pytest_qemuvm.machine.faults.ledger import FaultLedger
    from pytest_qemuvm.machine.live import Live
    from pytest_qemuvm.machine.vm import VM


STOPPED = ("paused", "watchdog")
"""QEMU's words for processors that stand still at the word of a fault, or of the test."""


class FaultsOfOneVM:
    """The handle of a VM, the ledger, and the common steps."""

    _vm: VM
    _ledger: FaultLedger

    @property
    def name(self) -> str:
        """The VM's name."""
        return self._vm.name

    def _guest(self, what: str) -> tuple[Live, AgentChannel]:
        """Return the present run and the channel into its guest.

        Raises NotRunning, NoChannel where there is no guest, and NotSupportedInDryRun.
        """
        live = self._vm.running()
        if live.channel is None:
            self._vm.require_guest(f"guest in VM {self._vm.name!r} for {what}")
            raise NoChannel(f"{what} needs a guest, and VM {self._vm.name!r} has none to ask")
        return live, live.channel

    def _check_guest_up(self, live: Live) -> None:
        """Wait for a guest that boots, until all its services run.

        Raises VMStateError for one that is paused, panicked or off, and WaitTimeout.
        """
        live.check_running()
        self._vm.come_up_again(live)
        live.hotplug.await_settled(Deadline.after(self._vm.spec.boot_timeout))

    def _unless_over(self, live: Live, mend: Callable[[], object]) -> None:
        """Mend something, unless QEMU has ended: then there is nothing to be mended."""
        if not live.alive:
            return
        try:
            mend()
        except QemuVMError:
            if live.alive:
                raise

    def _in_guest_unless_over(self, live: Live, mend: Callable[[], object]) -> None:
        """Mend something through the guest, unless that has panicked or gone with all that ailed it."""
        if self._is_gone(live):
            return
        try:
            with self._let_run(live):
                self._vm.come_up_again(live)
                mend()
        except QemuVMError:
            if not self._is_gone(live):
                raise

    @staticmethod
    def _is_gone(live: Live) -> bool:
        """Return whether the guest of that run is past being asked: panicked, off, or ended with QEMU."""
        return live.interrupt.raised or not live.alive

    @contextmanager
    def _let_run(self, live: Live) -> Iterator[None]:
        """Let a guest that was stopped run for a moment: nothing can be mended in one that stands still."""
        paused = live.qmp.execute("query-status")["status"] in STOPPED
        if paused:
            live.qmp.execute("cont")
        try:
            yield
        finally:
            if paused and live.alive:
                live.qmp.execute("stop")

    def _ended(self, live: Live) -> NotRunning:
        return NotRunning(
            f"QEMU of VM {self._vm.name!r} has ended meanwhile", f"exit status {live.process.status()}"
        )
