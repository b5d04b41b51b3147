"""How a machine is ended: by the power button, then quit, then SIGTERM, then SIGKILL, each for some time."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Literal

from pytest_qemuvm.errors import QmpDisconnected, QmpError
from pytest_qemuvm.host.deadline import Deadline

if TYPE_CHECKING:
    from pytest_qemuvm.host.process import QemuProcess
    from pytest_qemuvm.machine.faults.freezer import Freezer
    from pytest_qemuvm.qmp import Qmp

logger = logging.getLogger(__name__)

POWER_BUTTON_SECONDS = 1.0
"""From one press of the power button to the next."""

StopStep = Literal["powerdown", "quit", "term", "kill"]
STEP_SECONDS: dict[StopStep, float] = {"powerdown": 15.0, "quit": 5.0, "term": 5.0}
"""How long each step of the ladder is given before the next; SIGKILL needs no limit."""
_STEPS: tuple[StopStep, ...] = ("powerdown", "quit", "term", "kill")


class Ladder:
    """The steps by which one QEMU ends, the gentlest first."""

    def __init__(self, name: str, process: QemuProcess, qmp: Qmp, freezer: Freezer) -> None:
        self._name = name
        self._process = process
        self._qmp = qmp
        self._freezer = freezer

    def gentlest(self, *, guest_answers: bool) -> StopStep:
        """Return where it begins: at the power button only where a guest runs that may notice it."""
        self._freezer.release()
        if not guest_answers:
            return "quit"
        try:
            status = self._qmp.execute("query-status", timeout=STEP_SECONDS["quit"])["status"]
        except QmpError:  # a QEMU that does not even answer this is stopped all the same
            return "quit"
        return "powerdown" if status == "running" else "quit"

    def climb(self, first: StopStep) -> StopStep | None:
        """End QEMU, going up until a step works; return which one did (None: it had ended before).

        Each step has its own time, and whatever ends the process during it counts as that step.
        """
        if first != "kill":
            self._freezer.release()  # a process that stands still does nothing it is told
        for step in _STEPS[_STEPS.index(first) :]:
            if self._process.status() is not None:
                return None
            logger.debug("%s: stopping by %s", self._name, step)
            if self._take(step):
                return step
        return None

    def _take(self, step: StopStep) -> bool:
        """Take one step; return whether the process has ended by it."""
        if step == "kill":
            self._process.kill()
            return True
        deadline = Deadline.after(STEP_SECONDS[step])
        if step == "term":
            # A stopped process does not act on SIGTERM until it goes on.
            self._process.signal(signal.SIGTERM)
            self._process.signal(signal.SIGCONT)
        elif step == "quit":
            if not self._told("quit", deadline):
                return False
        else:
            return self._press_power_button(deadline)
        return self._process.wait(deadline) is not None

    def _press_power_button(self, deadline: Deadline) -> bool:
        """Press the button until the guest has switched itself off.

        A guest that is still starting its services does not notice; one that is going down does not mind.
        """
        while not deadline.expired:
            if not self._told("system_powerdown", deadline):
                return False
            if self._process.wait(deadline.sooner(POWER_BUTTON_SECONDS)) is not None:
                return True
        return False

    def _told(self, command: str, deadline: Deadline) -> bool:
        """Return whether QEMU has taken the command, or is gone and needs it no more."""
        try:
            self._qmp.execute(command, timeout=deadline)
        except QmpDisconnected:
            return True
        except QmpError:
            return False
        return True
