"""A guest's watchdog that nobody feeds any more."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

from pytest_qemuvm.errors import SpecError, VMStateError, WaitTimeout, nearest
from pytest_qemuvm.host.deadline import Deadline

if TYPE_CHECKING:
    from pytest_qemuvm.guest.agent import AgentChannel
    from pytest_qemuvm.machine.live import Live
    from pytest_qemuvm.machine.vm import VM

Action = Literal["reset", "pause", "shutdown", "poweroff", "inject-nmi", "debug", "none"]
"""What QEMU may do when a watchdog runs out."""
ENDS_RUN = ("shutdown", "poweroff")
"""Actions after which QEMU does not run any more."""
DRIVERS = ("i6300esb", "ib700")
_USUAL: Action = "reset"
_CALM_SECONDS = 30.0

# Where a daemon of the guest's own has the watchdog open, it is stopped and so feeds it no more; its time
# stays what it was. Else a process opens the watchdog with its shortest time, and feeds it once a day.
_STARVE = """
modprobe -q i6300esb
[ -e /dev/watchdog ] || { echo "there is no /dev/watchdog" >&2; exit 3; }
held=$(ls -l /proc/[0-9]*/fd 2>/dev/null |
    awk -F/ '/^\\/proc/ {pid = $3} /-> \\/dev\\/watchdog/ {print pid}' | sort -u)
if [ -n "$held" ]; then kill -STOP $held; else watchdog -T 1 -t 86400 /dev/watchdog || exit 4; fi
echo $held
"""


def checked_action(action: object) -> Action:
    """Return what a watchdog is to do. Raises SpecError."""
    for known in get_args(Action):
        if action == known:
            return known  # type: ignore[no-any-return]
    hint = nearest(str(action), get_args(Action))
    raise SpecError(f"watchdog: {action!r} is nothing that QEMU does when one runs out", hint=hint)


class Watchdog:
    """The watchdog of one run of a VM."""

    def __init__(self, vm: VM, live: Live, channel: AgentChannel) -> None:
        self._vm = vm
        self._live = live
        self._channel = channel
        self._boot = channel.boot_id
        self._stopped: list[str] = []
        self._begun = False

    def check_there(self) -> None:
        """Raise VMStateError where the machine has none, or it has run out already."""
        if self._live.strain.starved:
            raise VMStateError(f"the watchdog of VM {self._vm.name!r} has run out already")
        places = ("/machine/peripheral", "/machine/peripheral-anon")
        children = [
            child for place in places for child in self._live.qmp.execute("qom-list", {"path": place})
        ]
        if not {f"child<{driver}>" for driver in DRIVERS} & {child["type"] for child in children}:
            raise VMStateError(
                f"VM {self._vm.name!r} has no watchdog",
                hint='ask for one: devices=[DriverSpec("i6300esb")]',
            )

    def run_out(self, action: Action, deadline: Deadline) -> None:
        """Let it run out, and return when QEMU has done what it then does. Raises WaitTimeout."""
        live, qmp = self._live, self._live.qmp
        self._boot = self._channel.boot_id
        qmp.execute("watchdog-set-action", {"action": action}, timeout=deadline)
        since = qmp.events.last
        self._begun = self._live.strain.starved = True
        done = self._channel.run(_STARVE, deadline=deadline)
        if not done.ok:
            raise VMStateError(f"the guest of {self._vm.name!r} cannot start its watchdog", done.report())
        self._stopped = done.stdout.split()
        qmp.wait_event("WATCHDOG", {"action": action}, since=since, timeout=deadline)
        if action == "reset":
            self._vm.expect_reboot(live)
            qmp.wait_event("RESET", since=since, timeout=deadline)
        elif action == "pause":
            qmp.wait_event("STOP", since=since, timeout=deadline)
        elif action in ENDS_RUN:
            self._await_end(deadline)

    def set_action_back(self) -> None:
        """Have QEMU do what it did before, when a watchdog runs out."""
        self._live.qmp.execute("watchdog-set-action", {"action": self._configured()})

    def calm(self) -> None:
        """Have the guest feed it again, or switch it off; one that has booted since does as it likes."""
        self._live.strain.starved = False
        if self._begun and self._channel.boot_id == self._boot:
            word = f"kill -CONT {' '.join(self._stopped)}" if self._stopped else "killall -q watchdog"
            self._channel.run(word, deadline=Deadline.after(_CALM_SECONDS))

    def _configured(self) -> str:
        """Return the action of the command line; QEMU cannot be asked for it."""
        argv = self._live.plan.argv
        for word, value in pairwise(argv):
            if word == "-watchdog-action":
                return value
            if word == "-action" and "watchdog=" in value:
                return value.partition("watchdog=")[2].partition(",")[0]
        return _USUAL

    def _await_end(self, deadline: Deadline) -> None:
        if self._live.process.wait(deadline) is None:
            raise WaitTimeout(
                f"QEMU of VM {self._vm.name!r} did not end within {deadline.seconds:g} s of its watchdog",
                "the guest was asked to power down",
                waited_for="QEMU to end",
                seconds=deadline.seconds,
            )
        if self._vm.record.state != "stopped":
            self._vm.reconcile()  # a watchdog's poweroff is an exit without a word
