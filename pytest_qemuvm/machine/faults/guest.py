"""Faults that a guest notices and survives, or does not: NMI, panic, watchdog, memory, clock, processors."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import ChannelError, GuestCommandError, SpecError, VMStateError
from pytest_qemuvm.guest import waits
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.faults.base import STOPPED, FaultsOfOneVM
from pytest_qemuvm.machine.faults.clock import checked_jump, jump, set_back
from pytest_qemuvm.machine.faults.processor import chosen
from pytest_qemuvm.machine.faults.watchdog import ENDS_RUN, Watchdog, checked_action
from pytest_qemuvm.machine.outside import BALLOON_SECONDS
from pytest_qemuvm.spec.sizes import format_size, parse_size

if TYPE_CHECKING:
    from contextlib import ExitStack

    from pytest_qemuvm.machine.faults.ledger import Fault
    from pytest_qemuvm.machine.faults.watchdog import Action
    from pytest_qemuvm.machine.live import Live

GUEST_SECONDS = 60.0
"""How long a guest may take to notice something, or to follow."""
WATCHDOG_SECONDS = 90.0
"""How long a watchdog may take to run out: a daemon of the guest's own may have set it to a minute."""

_NMIS = (
    "awk '/NMI:/ {for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) n += $i} END {print n + 0}' /proc/interrupts"
)
_PANIC = "echo c >/proc/sysrq-trigger"


class GuestFaults(FaultsOfOneVM):
    """What goes wrong in a guest.

    Each raises NotRunning, NoChannel where there is no guest, and VMStateError for one that does not run.
    """

    def nmi(self) -> None:
        """Send it a non-maskable interrupt. There is nothing to heal.

        Seen when the guest counts one more, or panics over it, as ``unknown_nmi_panic`` has it do.
        """
        vm = self._vm
        live, channel = self._guest("an NMI")
        deadline = Deadline.after(GUEST_SECONDS)
        with self._ledger.reaching(live):
            self._check_guest_up(live)
            before = int(channel.run(_NMIS, deadline=deadline).stdout)
            since = live.qmp.events.last
            live.qmp.execute("inject-nmi")
            try:
                waits.until_succeeds(channel, f"test $({_NMIS}) -gt {before}", deadline, interval=0.01)
            except VMStateError:
                if not live.qmp.events.since(since, "GUEST_PANICKED"):
                    raise
                self._ledger.note(f"NMI to {vm.name} (the guest panicked)")
                return
        self._ledger.note(f"NMI to {vm.name} (the guest has counted it)")

    def panic(self) -> Fault:
        """Have the guest's kernel panic; it stays to be looked at, as ``guest-panicked``.

        Seen by the event GUEST_PANICKED; no finding ``unseen_panic`` comes of it. Heals by starting the VM
        anew and waiting until it is ready; one that ends with the test anyway is not started for that.
        """
        vm = self._vm
        live, channel = self._guest("a panic")

        def act(undo: ExitStack) -> str:
            deadline = Deadline.after(GUEST_SECONDS)
            self._check_guest_up(live)
            if not channel.run("test -w /proc/sysrq-trigger", deadline=deadline).ok:
                raise VMStateError(f"the kernel of {vm.name!r} takes no word to panic (CONFIG_MAGIC_SYSRQ)")
            undo.callback(vm.revive, live)
            since = live.qmp.events.last
            live.panic_seen, seen = True, live.panic_seen
            try:
                # That it is gone is what was wanted, and the event says so.
                with suppress(VMStateError, ChannelError, GuestCommandError):
                    channel.run(_PANIC, deadline=deadline)
                live.qmp.wait_event("GUEST_PANICKED", since=since, timeout=deadline)
            except BaseException:
                live.panic_seen = seen
                raise
            return "GUEST_PANICKED"

        return self._ledger.inject(f"{vm.name} panicked", live, act, revives=vm)

    def watchdog(self, action: Action = "reset", *, timeout: float = WATCHDOG_SECONDS) -> Fault:
        """Let the guest's watchdog run out, and have QEMU do what ``action`` says; ``timeout`` in seconds.

        The VM needs one, ``devices=[DriverSpec("i6300esb")]``, and its guest the driver. A process that feeds
        it is stopped (SIGSTOP); where there is none, it is started with its shortest time. Actions are
        QEMU's: ``reset``, ``pause``, ``shutdown``, ``poweroff``, ``inject-nmi``, ``debug``, ``none``.

        Seen by the event WATCHDOG and what comes of the action. Heals by setting QEMU's action back, and the
        machine: up again after a reset, started after a shutdown, resumed after a pause. Raises SpecError for
        another action, VMStateError for a VM without a watchdog, WaitTimeout where it does not run out.
        """
        wanted = checked_action(action)
        vm = self._vm
        live, channel = self._guest("a watchdog")
        ends = wanted in ENDS_RUN
        watchdog = Watchdog(vm, live, channel)

        def act(undo: ExitStack) -> str:
            deadline = Deadline.after(timeout)
            self._check_guest_up(live)
            watchdog.check_there()
            if ends:
                undo.callback(vm.revive)
            else:
                undo.callback(self._in_guest_unless_over, live, watchdog.calm)
            undo.callback(self._unless_over, live, partial(vm.go_on_from, live, STOPPED))
            undo.callback(self._unless_over, live, watchdog.set_action_back)
            watchdog.run_out(wanted, deadline)
            return f"WATCHDOG, {wanted}"

        subject = vm if ends else live
        revives = vm if ends or wanted == "reset" else None
        return self._ledger.inject(f"watchdog of {vm.name} ran out", subject, act, revives=revives)

    def memory_pressure(self, size: int | str, *, timeout: float = BALLOON_SECONDS) -> Fault:
        """Take so much of its memory away, by its balloon; ``size`` is what the guest loses.

        Several add up. Seen, and healed, when the balloon has followed (BALLOON_CHANGE); ``timeout`` in
        seconds. Raises VMStateError for a VM without ``balloon=True``, SpecError where nothing would be left,
        WaitTimeout where the guest does not give it: then it is given back.
        """
        vm = self._vm
        wanted = parse_size(size, "memory pressure")
        if not vm.spec.balloon:
            raise VMStateError(f"VM {vm.name!r} has no balloon", hint="ask for one: balloon=True")
        if wanted >= vm.spec.bytes:
            raise SpecError(f"memory pressure: {size!r} is all of the VM's {format_size(vm.spec.bytes)}")
        live, _ = self._guest("memory pressure")
        strain = live.strain

        def act(undo: ExitStack) -> str:
            self._check_guest_up(live)
            with strain.lock:
                if not strain.taken:
                    strain.memory = live.qmp.execute("query-balloon")["actual"]
                left = strain.memory - sum(strain.taken) - wanted
                if left <= 0:
                    raise SpecError(f"memory pressure: the guest has no {size!r} left to lose")
                undo.callback(self._give_back, live, wanted, timeout)
                strain.taken.append(wanted)
                vm.balloon(left, timeout=timeout)
            return f"its balloon is at {format_size(left)}"

        return self._ledger.inject(f"{format_size(wanted)} taken from {vm.name}", live, act)

    def clock_jump(self, seconds: float) -> Fault:
        """Have the guest's clock jump, forwards or, with a number below 0, backwards.

        Several add up. Seen by reading the guest's clock; heals by setting it to what it would be without,
        unless the guest has booted since and so has read the time anew. Raises SpecError for 0, for what is
        no number, and for a time that no clock shows.
        """
        wanted = checked_jump(seconds)
        vm = self._vm
        live, channel = self._guest("a clock")

        def act(undo: ExitStack) -> str:
            self._check_guest_up(live)
            boot = channel.boot_id
            undo.callback(
                self._in_guest_unless_over, live, lambda: set_back(live, channel, wanted, boot, GUEST_SECONDS)
            )
            shown = jump(live, channel, wanted, Deadline.after(GUEST_SECONDS))
            return f"the guest's clock is {shown:+.1f} s from the host's"

        return self._ledger.inject(f"clock of {vm.name} jumped by {wanted:+g} s", live, act)

    def cpu_unplugged(self, *, timeout: float = GUEST_SECONDS) -> Fault:
        """Unplug one of its processors: the last that was plugged, else one of ``cpus=`` but the first.

        Several may go, one by one. Seen by QEMU's list and the guest's number of processors; heals by
        plugging one again. QEMU's emulator (TCG) does not survive much of that: there the guest takes the
        processor offline instead, and the report says so. ``timeout`` is in seconds. Raises VMStateError
        where it is the last, WaitTimeout where the guest keeps it.
        """
        vm = self._vm
        live, channel = self._guest("processors")
        Deadline.after(timeout)  # what is no number is said before anything is touched

        def act(undo: ExitStack) -> str:
            self._check_guest_up(live)
            deadline = Deadline.after(timeout)
            processor = chosen(live, channel, vm.devices, deadline)
            undo.callback(
                self._in_guest_unless_over, live, lambda: processor.put_back(Deadline.after(timeout))
            )
            left = processor.take_out(deadline)
            return f"{processor.how}; the guest has {left}"

        return self._ledger.inject(f"a processor of {vm.name} unplugged", live, act)

    def _give_back(self, live: Live, size: int, timeout: float) -> None:
        """Give memory back; with the last of it the guest has what it had."""

        def mend() -> None:
            self._vm.balloon(strain.memory - sum(strain.taken), timeout=timeout)

        strain = live.strain
        with strain.lock:
            strain.taken.remove(size)
            self._in_guest_unless_over(live, mend)
