"""The reaper: a small process that outlives pytest just long enough to clean up after it.

Run by its path as ``python -I -S reaper_main.py TAG PID TICKS PIPE``, on the standard library alone. On the
descriptor PIPE it is told what the session has: a letter, a value, a NUL byte each.

=====  ==========================================================================
``D``  a directory, before it is made
``N``  a network interface, before it is made
``n``  a network interface that is gone, or was not ours
``P``  a process, as ``pid ticks``: ticks is its start since boot, so it is never another one
``p``  a process that has ended
``L``  the session's lease: the sessions beside it that are dead are cleared away now
``C``  the controller of xdist, as ``pid ticks``
``B``  an orderly end
=====  ==========================================================================

It waits for the word of an orderly end, or for the end of the process PID, however that comes about: SIGKILL,
``os._exit``, a crash, the OOM killer. Then it kills the processes it was told of and all that carry the
session's tag in their environment, each by its pidfd, and removes directories, interfaces and lease.
"""

from __future__ import annotations

import os
import select
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_qemuvm.host import sweep
else:
    # Last: nothing that lies beside this file can take the place of a module of the standard library.
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    import sweep

LATECOMERS = (0.1, 0.4)
"""Seconds between the looks after the first one: a QEMU that was just being started when pytest died carries
the tag only when its exec is over."""


class Told:
    """What the reaper knows of its session."""

    def __init__(self) -> None:
        self.processes: dict[int, int] = {}
        self.directories: list[str] = []
        self.links: list[str] = []
        self.lease: str | None = None
        self.controller: tuple[int, int] | None = None
        self.orderly = False
        self._rest = b""

    def take(self, chunk: bytes) -> None:
        """Take in a piece of what comes through the pipe; a message may be torn."""
        *messages, self._rest = (self._rest + chunk).split(b"\0")
        for message in messages:
            self._note(chr(message[0]), os.fsdecode(message[1:]))

    def _note(self, kind: str, value: str) -> None:
        if kind == "D":
            self.directories.append(value)
        elif kind == "N":
            self.links.append(value)
        elif kind == "n":
            self.links = [name for name in self.links if name != value]
        elif kind == "L":
            self.lease = value
        elif kind == "B":
            self.orderly = True
        elif kind in "PpC":
            pid, _, ticks = value.partition(" ")
            if kind == "P":
                self.processes[int(pid)] = int(ticks)
            elif kind == "p":
                self.processes.pop(int(pid), None)
            else:
                self.controller = int(pid), int(ticks)


def opened(pid: int, ticks: int) -> int | None:
    """Return a pidfd of just that process, or None where it is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    if sweep.start_ticks(pid) == ticks:
        return pidfd
    os.close(pidfd)
    return None


def drain(pipe: int, told: Told) -> None:
    """Take in what is left in the pipe, without waiting: forks of the owner may hold its other end."""
    os.set_blocking(pipe, False)
    try:
        while chunk := os.read(pipe, 65536):
            told.take(chunk)
    except BlockingIOError:
        pass


def watch(owner: tuple[int, int], pipe: int, told: Told) -> None:
    """Return when the owner has said that all is in order, or has died."""
    pidfd = opened(*owner)
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    if pidfd is not None:
        poll.register(pidfd, select.POLLIN)
    controller: int | None = None
    swept = False
    while pidfd is not None and not told.orderly:
        ready = dict(poll.poll())
        if pidfd in ready:
            break
        if controller in ready and controller is not None:
            poll.unregister(controller)
            interrupt(pidfd)
        if pipe in ready:
            chunk = os.read(pipe, 65536)
            if not chunk:
                # The pipe is closed, but its owner lives on and so may its machines.
                poll.unregister(pipe)
            told.take(chunk)
        if told.controller is not None and controller is None:
            controller = opened(*told.controller)
            told.controller = None
            if controller is None:
                interrupt(pidfd)
            else:
                poll.register(controller, select.POLLIN)
        if told.lease is not None and not swept:
            swept = True
            sweep.collect(os.path.dirname(told.lease))  # noqa: PTH120
    drain(pipe, told)


def interrupt(pidfd: int) -> None:
    """Do to a worker what execnet does only after five seconds: its controller is dead, nobody listens."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGINT)
    except OSError:
        return  # it has died, too


def clean_up(tag: str, told: Told) -> None:
    """Remove what the session had; the lease last, and only if nobody else has taken it over."""
    sweep.end_processes(tag, told.processes.items())
    for name in told.links:
        sweep.remove_link(name)
    for directory in told.directories:
        sweep.remove_tree(directory)


def main() -> None:
    """Watch, then clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A whole tree of processes is being ended: it goes as soon as its work is done.
        signal.signal(number, signal.SIG_IGN)
    tag, owner, ticks, pipe = sys.argv[1:5]
    told = Told()
    watch((int(owner), int(ticks)), int(pipe), told)
    clean_up(tag, told)
    if told.orderly:
        return
    for seconds in LATECOMERS:
        select.select([], [], [], seconds)
        clean_up(tag, told)
    if told.lease is not None:
        descriptor = sweep.seize(told.lease)
        if descriptor is not None:
            sweep.give_up(told.lease, descriptor)
        sweep.remove_root(os.path.dirname(told.lease))  # noqa: PTH120


if __name__ == "__main__":
    try:
        main()
    finally:
        os._exit(0)  # its owner waits for its end, and there is nothing to take down in order
