"""Faults of the whole machine: it stands still, it is gone, it begins anew. None needs a guest."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import VMStateError
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.faults.freezer import STOP_SECONDS
from pytest_qemuvm.machine.faults.guest import GuestFaults

if TYPE_CHECKING:
    from contextlib import ExitStack

    from pytest_qemuvm.machine.faults.ledger import Fault
    from pytest_qemuvm.machine.live import Live

THAW_SECONDS = 30.0
"""How long a QEMU that runs on may take to answer; it takes a millisecond."""


class MachineFaults(GuestFaults):
    """What can go wrong with a machine, or with what runs in it."""

    def paused(self) -> Fault:
        """Stop its processors, as a hypervisor does; its guest misses the time until it heals.

        Seen by the event STOP, healed with RESUME; one that the test has resumed itself is healed. Raises
        NotRunning, and VMStateError unless it is running.
        """
        vm, live = self._vm, self._vm.running()

        def act(undo: ExitStack) -> str:
            state = vm.state
            if state != "running":
                raise VMStateError(f"VM {vm.name!r} is {state}, not running: it cannot be paused")
            undo.callback(self._unless_over, live, partial(vm.unhalt, live))
            vm.halt()
            return "STOP"

        return self._ledger.inject(f"{vm.name} paused", live, act)

    def frozen(self) -> Fault:
        """Stop QEMU's process itself (SIGSTOP): the machine hangs as a whole, its monitor too.

        Seen in the states of all its threads; healed when it answers on its monitor again. What else is
        broken or healed meanwhile has it run for that moment, as QEMU hears nothing otherwise; ``stop``,
        ``restart`` and ``delete`` end the fault. Everything that asks QEMU or the guest waits for its own
        timeout. Raises NotRunning, and VMStateError where it is frozen already.
        """
        vm, live = self._vm, self._vm.running()
        if live.freezer.frozen or live.process.is_stopped:
            raise VMStateError(f"VM {vm.name!r} is frozen already")

        def act(undo: ExitStack) -> str:
            undo.callback(self._thaw, live)
            live.freezer.freeze(Deadline.after(STOP_SECONDS))
            if not live.alive:
                raise self._ended(live)
            return "its threads stand still"

        return self._ledger.inject(f"{vm.name} frozen", live, act, aside=live.freezer.aside)

    def killed(self) -> Fault:
        """End QEMU by SIGKILL, as when the host fails. Its state is ``stopped`` then.

        Heals by starting it again and waiting until it is ready, with the disks as they were left; where the
        test has started or deleted it meanwhile, it has healed. A VM that ends with the test anyway is not
        started for that. Raises NotRunning.
        """
        vm = self._vm
        vm.running()

        def act(undo: ExitStack) -> str:
            undo.callback(vm.revive)
            return f"exit status {vm.cut().process.status()}"

        return self._ledger.inject(f"{vm.name} killed", vm, act, revives=vm)

    def reset(self) -> Fault:
        """Press its reset button. This returns while it boots; healed is it when its guest is up again.

        Seen by the event RESET. Raises NotRunning, and VMStateError where the guest could not come up: it is
        paused, or has panicked.
        """
        vm, live = self._vm, self._vm.running()

        def act(undo: ExitStack) -> str:
            if live.plan.guest:
                live.check_running()
            undo.callback(self._up_again, live)
            vm.reset_now()
            return "RESET"

        return self._ledger.inject(f"{vm.name} reset", live, act, revives=vm)

    def _thaw(self, live: Live) -> None:
        live.freezer.release()
        self._unless_over(live, partial(live.qmp.execute, "query-status", timeout=THAW_SECONDS))

    def _up_again(self, live: Live) -> None:
        self._in_guest_unless_over(live, lambda: None)
