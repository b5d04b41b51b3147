"""What QEMU's emulator cannot do once a processor has been unplugged, refused before it ends QEMU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.errors import NoFreeSlot, VMStateError

if TYPE_CHECKING:
    from pytest_qemuvm.machine.live import Live

SOUND_SINCE = 10
"""The first major version seen to forget a processor wholly; 7.2 is the last seen not to."""


def emulates(live: Live) -> bool:
    """Return whether QEMU itself plays the processors (TCG).

    Then it cannot take one out and in again as often as one likes; see Processors.
    """
    accelerator: str = live.plan.argv[live.plan.argv.index("-accel") + 1]
    return accelerator.startswith("tcg")


class Processors:
    """The processors that one run of a machine has lost, and what is not to be done to it for that."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._lost = 0

    def lost_one(self) -> None:
        """Note that one has left QEMU."""
        self._lost += 1

    def check_sound(self, what: str, *, loses: bool = False) -> None:
        """Raise VMStateError where QEMU would end of ``what``, which says what is to be done to the machine.

        ``loses``: a processor goes with it. Under TCG, QEMU goes on writing to the memory of a processor that
        it has freed, with each change of the machine's memory map. The first change ended 7.2 in each of 60
        runs, or left it without an answer for good; 10.0 has it mended.
        """
        if not (self._lost or loses) or not emulates(self._live):
            return
        version = self._live.qmp.greeting["version"]["qemu"]
        if version["major"] >= SOUND_SINCE:
            return
        raise VMStateError(
            f"VM {self._live.plan.name!r} cannot {what} once a processor was unplugged: under TCG, QEMU "
            f"{version['major']}.{version['minor']} would break its own memory and end",
            hint=f"do that before, or use KVM or QEMU {SOUND_SINCE}; a restart() makes it whole again",
        )

    def check_room(self, more: int = 1) -> None:
        """Raise NoFreeSlot where QEMU would end of so many more processors, although sockets are free.

        Under TCG those that have gone count as well: an assertion in 10.0; 7.2 does not get that far.
        """
        if not (self._lost and more and emulates(self._live)):
            return
        sockets = self._live.qmp.execute("query-hotpluggable-cpus")
        had = sum("qom-path" in socket for socket in sockets) + self._lost
        if had + more > len(sockets):
            raise NoFreeSlot(
                f"VM {self._live.plan.name!r} has {len(sockets)} sockets for processors and has had {had} of "
                "them: under TCG, QEMU cannot use a socket twice",
                hint="use KVM; a restart() begins anew",
            )
