"""A running machine into files, and out of them again: what live templates and clones rest on.

QEMU's migration is told to leave shared memory alone (``x-ignore-shared``): the memory is a file already, and
only the state of the devices, some hundred KiB, is written and read (``docs/devel/migration``).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import CannotSave, CommandError, QmpTimeout, WaitTimeout
from pytest_qemuvm.guest import waits
from pytest_qemuvm.host.quiet import wait_quiet
from pytest_qemuvm.machine.hotplug import SETTLED

if TYPE_CHECKING:
    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.host.memory import MemoryFile
    from pytest_qemuvm.machine.live import Live
    from pytest_qemuvm.qmp import Qmp

STATE_SECONDS = 60.0
"""How long writing or reading the devices' state may take; it takes milliseconds."""
WARM_UP = "/bin/busybox true; cat /proc/uptime; date"
"""What a first command needs, so that it lies in the memory that is saved."""
_STATE = "state"
_UNLIMITED = 1 << 40
"""Bytes a second."""


def make_ready(live: Live, deadline: Deadline) -> None:
    """Have a guest that has just booted come to rest, with what a first command needs in its memory."""
    assert live.channel is not None
    waits.for_file(live.channel, SETTLED, deadline)
    for _ in range(2):
        live.channel.run(WARM_UP, deadline=deadline)
    # What a guest has begun, its clones would all have to finish before they answer.
    wait_quiet(live.process.pid, deadline)


def save_state(live: Live, target: MemoryFile, *, whole: bool = False) -> None:
    """Stop a machine, and write the state of its devices; it stands still then, and its images are closed.

    ``whole`` writes its memory as well, which else has to be in a shared file. Raises CannotSave where one of
    its devices cannot be saved.
    """
    qmp = live.qmp
    since = qmp.events.last
    qmp.execute("stop")
    qmp.execute("migrate-set-capabilities", capabilities(whole=whole))
    if whole:
        # The default is for networks.
        qmp.execute("migrate-set-parameters", {"max-bandwidth": _UNLIMITED})
    qmp.name_fd(_STATE, target)
    try:
        qmp.execute("migrate", {"uri": f"fd:{_STATE}"}, timeout=STATE_SECONDS)
    except CommandError as error:
        raise CannotSave("QEMU cannot save this machine", error.desc) from error
    _await(qmp, since, "save")


def load_state(live: Live, source: MemoryFile, *, whole: bool = False) -> None:
    """Load the state into a machine that waits for it. Raises QemuVMError where QEMU cannot."""
    qmp = live.qmp
    since = qmp.events.last
    qmp.execute("migrate-set-capabilities", capabilities(whole=whole))
    # A descriptor of its own for each: they would share the position in the file.
    own = source.reopen()
    try:
        qmp.name_fd(_STATE, own)
    finally:
        os.close(own)
    qmp.execute("migrate-incoming", {"uri": f"fd:{_STATE}"}, timeout=STATE_SECONDS)
    _await(qmp, since, "load")


def capabilities(*, whole: bool) -> dict[str, object]:
    """Return what QEMU is told of how to save and load: with the memory, or all but what is shared."""
    states = {"x-ignore-shared": not whole, "events": True}
    return {"capabilities": [{"capability": name, "state": state} for name, state in states.items()]}


def _await(qmp: Qmp, since: int, what: str) -> None:
    """Wait until the migration has come to an end. Raises QemuVMError where it is not a good one."""

    def ended(data: dict[str, object]) -> bool:
        return data.get("status") in ("completed", "failed", "cancelled")

    try:
        event = qmp.wait_event("MIGRATION", ended, since=since, timeout=STATE_SECONDS)
    except QmpTimeout as error:
        raise WaitTimeout(
            f"QEMU did not {what} the machine's state within {STATE_SECONDS:g} s",
            error.details,
            waited_for=f"the end of the migration that is to {what} it",
            seconds=STATE_SECONDS,
        ) from error
    if event.data["status"] != "completed":
        found = qmp.execute("query-migrate")
        raise CannotSave(f"QEMU could not {what} the machine's state", str(found.get("error-desc") or found))
