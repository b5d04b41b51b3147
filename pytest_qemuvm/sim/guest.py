"""The guest, as far as QEMU can tell that there is one: it lets devices go, and obeys the button."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_qemuvm.sim.machine import Machine


class Guest:
    """A model of a guest: ``absent``, ``cooperative`` after some time, or ``refusing``."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.model = "absent"
        self.after_ms: float = 10

    def button_pressed(self) -> None:
        """Switch off, if there is somebody to do so and the machine still runs by then."""
        if self.model == "cooperative":
            self._machine.loop.later(self.after_ms, self._switch_off)

    def _switch_off(self) -> None:
        if self._machine.runstate.running:
            self._machine.runstate.guest_shut_down()
