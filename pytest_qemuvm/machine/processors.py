"""Whether QEMU can let go of a processor without harm."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_qemuvm.machine.live import Live

SOUND_SINCE = 10
"""The first major version seen to forget a processor wholly; 7.2 is the last seen not to."""


def emulates(live: Live) -> bool:
    """Return whether QEMU itself plays the processors (TCG).

    Then it cannot take one out and in again as often as one likes: before version 10 it breaks its memory,
    and 10.0 ends with an assertion once it has had more of them than ``maxcpus``, those that went counted.
    """
    accelerator: str = live.plan.argv[live.plan.argv.index("-accel") + 1]
    return accelerator.startswith("tcg")


def version_that_breaks(live: Live) -> str | None:
    """Return QEMU's version where it would write to the memory of a processor that it has freed.

    Under TCG it does so with the next change of its memory map: a plug of another processor, a load.
    """
    version = live.qmp.greeting["version"]["qemu"]
    if emulates(live) and version["major"] < SOUND_SINCE:
        return f"{version['major']}.{version['minor']}"
    return None
