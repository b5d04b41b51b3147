"""The process: faults at launch, the command line, the machine, and an end with QEMU's status."""

from __future__ import annotations

import os
import select
from _signal import SIG_IGN, set_wakeup_fd, signal  # type: ignore[import-not-found]  # signal imports enum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_qemuvm.sim.machine import Machine

_SIGHUP, _SIGINT, _SIGPIPE, _SIGTERM = 1, 2, 13, 15


def run(arguments: list[str]) -> None:
    """Be a QEMU with these arguments until it ends. Does not return."""
    from pytest_qemuvm.sim import faults, launch
    from pytest_qemuvm.sim.words import PROGRAM, LaunchRefusal

    try:
        wanted = faults.read()
    except (OSError, ValueError) as error:
        _say(f"{PROGRAM}: {error}")
        os._exit(1)
    if wanted.at_launch():
        _hang()
    try:
        machine = launch.launch(arguments, wanted)
    except LaunchRefusal as refusal:
        _say(refusal.line)
        os._exit(1)
    except launch.Told as told:
        os.write(1, told.text.encode())
        os._exit(0)
    _catch_signals(machine)
    machine.loop.run()
    machine.close()
    # Nothing is left that an orderly end of the interpreter would do, and it takes 2 ms.
    os._exit(0)


def _catch_signals(machine: Machine) -> None:
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    set_wakeup_fd(writable, warn_on_full_buffer=False)

    def caught(_events: int) -> None:
        for number in os.read(readable, 64):
            _say(f"qemu-system-x86_64: terminating on signal {number}")
            machine.runstate.quit("host-signal")

    machine.loop.watch(readable, caught)
    for number in (_SIGHUP, _SIGINT, _SIGTERM):
        signal(number, lambda _number, _frame: None)
    signal(_SIGPIPE, SIG_IGN)


def _hang() -> None:
    """Do nothing until a signal ends it."""
    select.poll().poll()


def _say(text: str) -> None:
    os.write(2, text.encode(errors="surrogateescape") + b"\n")
