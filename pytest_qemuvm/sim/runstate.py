"""Whether the machine runs, and how it stops, resets and ends, with the events of each.

QEMU sends these events before the reply to the command that causes them (measured, 7.2 and 10.0).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_qemuvm.sim.machine import Machine


class RunState:
    """The state that ``query-status`` tells, and what changes it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.status = "prelaunch"
        self.no_shutdown = False
        """``-action shutdown=pause``: a guest that switches itself off leaves a machine that stands still."""
        self.reboot_ends = False
        """``-action reboot=shutdown``."""
        self.ended = False

    @property
    def running(self) -> bool:
        """Return whether the processors run."""
        return self.status == "running"

    def begin(self) -> None:
        """Let the processors run, before anybody can hear of it."""
        self.status = "running"

    def stop(self, why: str = "paused") -> None:
        """Let the processors stand still; one that stand still already stay as they are."""
        if self.running:
            self.status = why
            self._machine.emit("STOP")
        elif self.status != "prelaunch" or why != "paused":
            self.status = why

    def resume(self) -> None:
        """Let the processors run."""
        if not self.running:
            self.status = "running"
            self._machine.emit("RESUME")

    def reset(self, reason: str = "host-qmp-system-reset", *, guest: bool = False) -> None:
        """Reset the machine: QEMU does so, and says so, before it answers the command."""
        if guest and self.reboot_ends:
            self._shut_down("guest-reset", guest=True)
            return
        self._machine.emit("RESET", {"guest": guest, "reason": reason})
        self._machine.was_reset()
        if not self.running and self.status != "suspended":
            self.status = "prelaunch"

    def power_down(self) -> None:
        """Press the button."""
        self._machine.emit("POWERDOWN")
        self._machine.guest.button_pressed()

    def guest_shut_down(self) -> None:
        """Have the guest switch itself off."""
        self._shut_down("guest-shutdown", guest=True)

    def _shut_down(self, reason: str, *, guest: bool) -> None:
        self._machine.emit("SHUTDOWN", {"guest": guest, "reason": reason})
        if self.no_shutdown:
            self.stop("shutdown")
        else:
            self._machine.end()

    def quit(self, reason: str) -> None:
        """End the process, whatever a shutdown would do, once the current command is answered."""
        if not self.ended:
            self.ended = True
            self._machine.emit("SHUTDOWN", {"guest": False, "reason": reason})
            self._machine.loop.soon(self._machine.end)
