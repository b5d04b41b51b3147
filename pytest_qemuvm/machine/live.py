"""A machine while it runs: its process, monitor, console and channel, made together and ended together."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import (
    GuestBootError,
    LaunchError,
    NotRunning,
    NotSupportedInDryRun,
    QmpDisconnected,
    QmpError,
    VMStateError,
    WaitTimeout,
)
from pytest_qemuvm.guest.console import Console
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.executables import NOT_IN_DRY_RUN, NOT_MODELLED
from pytest_qemuvm.host.provision import NO_FILES
from pytest_qemuvm.machine.faults.freezer import Freezer
from pytest_qemuvm.machine.faults.layers import Held
from pytest_qemuvm.machine.faults.strain import Strain
from pytest_qemuvm.machine.interrupt import Interrupt
from pytest_qemuvm.machine.ladder import Ladder
from pytest_qemuvm.machine.qtest import BASES, PlayedGuest
from pytest_qemuvm.qmp import Qmp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from pytest_qemuvm.errors import QemuVMError
    from pytest_qemuvm.guest.agent import AgentChannel, Identity
    from pytest_qemuvm.host.loop import LoopThread
    from pytest_qemuvm.host.process import QemuProcess
    from pytest_qemuvm.host.provision import Provisioner
    from pytest_qemuvm.machine.faults.layers import Layers
    from pytest_qemuvm.machine.hotplug import HotPlug
    from pytest_qemuvm.machine.ladder import StopStep
    from pytest_qemuvm.machine.snapshots import Snapshots
    from pytest_qemuvm.plan import MachinePlan
    from pytest_qemuvm.qmp.events import Event
    from pytest_qemuvm.qmp.warden import Warden

GREETING_SECONDS = 20.0
"""From launch to QMP's greeting: 20 ms on an idle machine."""

WAKE_SECONDS = 30.0
"""How long a clone's guest may take until it has answered: 0.1 s under emulation."""

_SEVER_SECONDS = 5.0

_OF_THE_MAKING = ("MIGRATION", "STOP", "RESUME")
"""Events that a clone has had before its test sees it."""


class Live:
    """Everything that exists only while the machine runs.

    Made by ``launch``; whatever happens after that, ``close`` ends all of it.
    """

    def __init__(self, plan: MachinePlan, process: QemuProcess, stack: ExitStack) -> None:
        self.plan = plan
        self.process = process
        self.interrupt = Interrupt()
        self.stopped_by: StopStep | None = None
        self.ready = False
        """True while the guest is known to answer."""
        self.boots = 0
        """How often it has come up."""
        self.leaving: str | None = None
        """The boot that a reset has ended, until the guest is up again."""
        self.freezer = Freezer(process)
        """What stops the process itself, and lets it run on."""
        self.strain = Strain()
        """What faults have done to the guest that adds up."""
        self.fails = False
        """True for one that was told to fail at something: it is asked only what must be asked."""
        self.panic_seen = False
        """True once the test was told that the guest panicked."""
        self.own_objects: set[str] = set()
        """Ids of QEMU's objects that are the harness's, and no device's."""
        self.numbers = itertools.count()
        """For ids that are used once."""
        self.since = 0
        """The number of the last event before the present life of the guest: a restore begins another."""
        self.renewal_due = False
        """True while the guest stands still since a restore, and has neither the time nor new entropy."""
        self._at_death: list[Callable[[], object]] = []
        self._stack = stack
        self.qmp: Qmp
        """The harness's own face of the monitor."""
        self.tests_qmp: Qmp
        """The face that tests are given: what they send is judged."""
        self.console: Console
        self.channel: AgentChannel | None = None
        self.played_guest: PlayedGuest | None = None
        """What lets devices go where there is no guest to do it."""
        self.hotplug: HotPlug
        self.snapshots: Snapshots
        self.layers: Layers
        """What is put in front of its disks to have them fail."""

    @classmethod
    def launch(
        cls,
        plan: MachinePlan,
        provisioner: Provisioner,
        loop: LoopThread,
        run_dir: Path,
        warden: Warden,
        files: Mapping[str, int] = NO_FILES,
        history: str = "",
    ) -> Live:
        """Start QEMU and shake hands with it; the ``warden`` judges what tests will send to it.

        ``files`` are descriptors that it inherits; ``history`` is what its console said in an earlier life.

        Raises LaunchError, with the command line, the exit status and the log, when it ends or says nothing.
        """
        with ExitStack() as stack:
            provisioned = provisioner.launch(plan, run_dir, stack, files)
            process = provisioned.process
            live = cls(plan, process, stack)
            live.fails = provisioned.fails
            if live.fails:
                warden.ask_nothing()
            stack.callback(live.interrupt.close)
            watch = loop.watch(process.fileno(), live._on_death)
            stack.callback(watch.cancel)
            live.console = Console(loop, provisioned.sockets["console"], live.interrupt, history)
            stack.callback(live.console.close)
            live.tests_qmp = Qmp(loop, provisioned.sockets["qmp"], death=process, warden=warden)
            live.qmp = live.tests_qmp.for_harness()
            stack.callback(live.qmp.close)
            live._watch_guest()
            if plan.guest:  # one of the user's may reset as it likes
                reset = live.qmp.events.wait("RESET", {"guest": True}, since=0)
                reset.add_done_callback(live._on_guest_reset)
            live._shake_hands(provisioner.executables.listing)
            if "qtest" in provisioned.sockets and plan.machine.name in BASES:
                live.played_guest = PlayedGuest(provisioned.sockets["qtest"], plan.machine.name)
                stack.callback(live.played_guest.close)
            if plan.agent_ports and provisioner.executables.run_guests:
                from pytest_qemuvm.guest.agent import AgentChannel  # noqa: PLC0415  # bare has none

                ports: Sequence[str] = plan.agent_ports
                live.channel = AgentChannel([provisioned.sockets[name] for name in ports], live.interrupt)
                stack.callback(live.channel.close)
            live._stack = stack.pop_all()
        return live

    @property
    def alive(self) -> bool:
        """True while QEMU runs."""
        return self.process.alive

    def await_guest(self, deadline: Deadline, *, after_boot: str | None = None) -> None:
        """Wait until the guest answers; with ``after_boot``, one that has booted anew since that boot.

        Raises GuestBootError, with the console's end, when it does not, and at once when it panics, switches
        itself off or QEMU dies.
        """
        if self.channel is None:
            self._is_up()
            return
        try:
            if after_boot is None:
                self.channel.wait_ready(deadline)
            else:
                self.channel.wait_restarted(after_boot, deadline)
        except WaitTimeout as error:
            raise self._boot_error(
                f"the guest of {self.plan.name!r} did not come up within {deadline.seconds:g} s",
                "boot_timeout= gives it more time",
                deadline,
            ) from error
        except (VMStateError, QmpDisconnected) as error:
            raise self._boot_error(
                f"the guest of {self.plan.name!r} was gone before it came up: {error.brief}",
                "the console shows how far its boot ROM came: somebody has to hand out a boot file by then"
                if self.plan.boot == "network"
                else "the whole console is kept under --qemu-artifacts",
                deadline,
            ) from error
        self._is_up()

    def await_clone(self, boot_id: str, identity: Identity) -> None:
        """Let a clone go, whose state has been loaded, and wait until its guest, if any, answers.

        Raises GuestBootError.
        """
        deadline = Deadline.after(WAKE_SECONDS)
        try:
            self.qmp.execute("cont")
            if self.channel is not None:
                self.channel.renew(boot_id, identity, deadline)
        except (WaitTimeout, VMStateError, QmpDisconnected) as error:
            raise self._boot_error(
                f"the guest of the clone {self.plan.name!r} did not come up: {error.brief}",
                "start='cold' boots it instead",
                deadline,
            ) from error
        # What made it a clone is nothing that happened to it: no wait of a test's may take it for that.
        for event in self.qmp.events.since(0, _OF_THE_MAKING):
            self.qmp.events.mark_returned(event)
        if not self.ready:  # one that was prepared ahead has come up before
            self._is_up()

    def renew(self, deadline: Deadline) -> None:
        """Give a guest that has been restored the time as it is now, and new entropy. Raises WaitTimeout."""
        if self.channel is not None:
            from pytest_qemuvm.guest.agent import Identity  # noqa: PLC0415  # bare has none

            with self.channel.held(deadline) as hold:
                hold.renew(Identity(), deadline)
        self.renewal_due = False

    def _is_up(self) -> None:
        self.ready = True
        self.boots += 1

    def _boot_error(self, brief: str, hint: str, deadline: Deadline) -> GuestBootError:
        return GuestBootError(
            brief,
            hint=hint,
            waited_for="the agent in the guest",
            seconds=deadline.seconds,
            console=self.console.tail(),
        )

    def _shake_hands(self, listing: str | None) -> None:
        """Connect to the monitor; ``listing`` is a binary that knows names which QEMU did not take."""
        try:
            self.qmp.connect(Deadline.after(GREETING_SECONDS))
        except QmpError as error:
            # A QEMU that refuses its command line ends within milliseconds of closing the monitor.
            status = self.process.wait(Deadline.after(1.0))
            ended = "ended" if status is not None else "did not answer"
            log = self.process.log_tail()
            if NOT_MODELLED in log:
                raise NotSupportedInDryRun(
                    f"dry-run: {self.plan.name!r} cannot be simulated", log, NOT_IN_DRY_RUN
                ) from error
            from pytest_qemuvm.host.device_help import right_name  # noqa: PLC0415  # only a failure needs it

            raise LaunchError(
                f"QEMU {ended} before {self.plan.name!r} was up",
                argv=self.plan.standalone_argv(),
                status=status,
                log=log,
                hint=(right_name(listing, log) if listing else None)
                or "paste the command line into a shell to see it fail",
            ) from error

    def _on_death(self) -> None:
        """Note QEMU's death. On the loop's thread."""
        status, log = self.process.status(), self.process.log_tail()
        self.interrupt.raise_(
            partial(QmpDisconnected, f"QEMU of {self.plan.name!r} has ended", status=status, log=log)
        )
        for act in self._at_death:
            act()

    def _on_guest_gone(self, wait: Future[Event]) -> None:
        """Note that the guest panicked or switched itself off. On the loop's thread."""
        if wait.exception() is not None or wait.result().seq <= self.since:
            return
        event = wait.result()
        if event.name == "GUEST_PANICKED":
            self.interrupt.raise_(self._panicked)
            return
        self.interrupt.raise_(self._switched_off)
        # QEMU was told to stay after a shutdown, so that the event could not get lost. Now it may go.
        self.stopped_by = self.stopped_by or "powerdown"
        self.qmp.post("quit")

    def _watch_guest(self) -> None:
        """Listen for what ends the present life of the guest."""
        wait = self.qmp.events.wait(("GUEST_PANICKED", "SHUTDOWN"), _concerns_guest, since=self.since)
        wait.add_done_callback(self._on_guest_gone)

    def execute_until(self, command: str, event: str) -> None:
        """Send a command, and return when QEMU says by an event that it has come about."""
        # A wait that names its start leaves the event to the test's own waits as well.
        since = self.qmp.events.last
        self.qmp.execute(command)
        self.qmp.wait_event(event, since=since)

    def begin_anew(self) -> None:
        """Forget that the guest panicked: it is about to go on from a moment before that."""
        before, self.since = self.since, self.qmp.events.last
        self.panic_seen = False
        if self.qmp.events.since(before, "GUEST_PANICKED"):
            self.interrupt.clear()
            self._watch_guest()

    def _on_guest_reset(self, wait: Future[Event]) -> None:
        """Note a guest that reset itself in its first boot: it would go on doing so. On the loop's thread.

        Later boots are another matter: after a reset from outside the firmware does one of its own.
        """
        if wait.exception() is None and self.boots == 0:
            name = self.plan.name
            brief = (
                f"the firmware of {name!r} found nothing to boot in its networks, or that reset itself"
                if self.plan.boot == "network"
                else f"the guest of {name!r} reset itself while it booted"
            )
            self.interrupt.raise_(partial(VMStateError, brief))

    @property
    def unseen_panic(self) -> str | None:
        """What the console said last, where the guest panicked and nobody was told or waited for it."""
        if self.panic_seen:
            return None
        panics = self.qmp.events.since(self.since, "GUEST_PANICKED")
        return self.console.tail() if any(not self.qmp.events.was_shown(event) for event in panics) else None

    def _panicked(self) -> QemuVMError:
        self.panic_seen = True
        return VMStateError(
            f"the guest of {self.plan.name!r} panicked",
            f"last console lines:\n{self.console.tail()}",
            "it stays to be looked at; restart() begins anew",
        )

    def _switched_off(self) -> QemuVMError:
        return NotRunning(
            f"the guest of {self.plan.name!r} switched itself off",
            f"last console lines:\n{self.console.tail()}",
        )

    def ended_in_order(self) -> bool:
        """Return whether QEMU ended because its guest or its monitor wanted it, not because it was killed.

        SIGTERM makes it exit with status 0 as well; only the reason of its SHUTDOWN event tells.
        """
        if self.process.status() != 0:
            return False
        self.qmp.close()  # the reader has then taken in what QEMU said last
        reasons = [event.data.get("reason") for event in self.qmp.events if event.name == "SHUTDOWN"]
        return bool(reasons) and "host-signal" not in reasons

    def check_running(self) -> None:
        """Raise VMStateError where the guest's processors stand still, for whatever reason."""
        if self.interrupt.raised:
            raise self.interrupt.error()
        state = self.qmp.execute("query-status")["status"]
        if state != "running":
            raise VMStateError(f"VM {self.plan.name!r} is {state}, not running", hint="resume() it first")

    def sever(self) -> None:
        """Have nothing reach the disks with volatile caches any more: their power is about to be cut.

        What was on its way has arrived then, and is in their logs; the guest gets no answer to what it asks
        after. Without it, requests under way when QEMU is killed would leave holes in the logs, and stopping
        the machine first would flush. Raises QmpError; then the disks are as they were.
        """
        ids = {cache.id for cache in self.plan.caches}
        deadline = Deadline.after(_SEVER_SECONDS)
        with self.hotplug.turn(deadline), ExitStack() as undo:
            for device in self.hotplug.devices:
                if device.id in ids:
                    held = Held()
                    undo.callback(self.layers.take, device, held)
                    self.layers.put(device, held)
            undo.pop_all()

    def gentlest_step(self) -> StopStep:
        """Return the first step by which it may be ended: the power button where a guest may notice it."""
        return self._ladder().gentlest(guest_answers=self.plan.guest and self.ready)

    def stop(self, first: StopStep) -> StopStep | None:
        """End QEMU, beginning at a step; return which one did it, or what had ended it before."""
        self.stopped_by = self._ladder().climb(first) or self.stopped_by
        return self.stopped_by

    def _ladder(self) -> Ladder:
        return Ladder(self.plan.name, self.process, self.qmp, self.freezer)

    def on_death(self, act: Callable[[], object]) -> None:
        """Call that when QEMU has ended, on the loop's thread, and at the latest when the run is closed."""
        self._at_death.append(act)
        self.on_close(act)

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call that when the machine has ended, too."""
        self._stack.callback(callback)

    def close(self) -> None:
        """End everything that is left; idempotent, and never stops half way."""
        self._stack.close()


def _concerns_guest(data: dict[str, object]) -> bool:
    """Return whether a GUEST_PANICKED or SHUTDOWN says that the guest itself is gone."""
    return "guest" not in data or bool(data["guest"])
