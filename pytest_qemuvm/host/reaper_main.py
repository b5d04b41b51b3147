"""The reaper: a small process that outlives pytest just long enough to clean up after it.

Run by its path as ``python -I -S reaper_main.py TAG PID``, on the standard library alone. It is told on its
standard input, a line each, which directories to remove; it waits until the pipe closes or the process PID is
gone. Then it kills every process that carries the session's tag in its environment, by pidfd, and removes
the directories. It holds however pytest ends: SIGKILL, ``os._exit``, a crash, the OOM killer.

A line ``bye`` says that the end is an orderly one. Without it there is a second look: a QEMU that was just
being started carries the tag only when its exec is over.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys

PATIENCE = 50
"""Rounds of looking for processes; each kills all it finds, a process that forks needs a second one."""


GOODBYE = "bye"
LATECOMERS = 0.5
"""Seconds until the second look."""


def tagged(tag: str) -> list[int]:
    """Return pids of other processes whose environment carries the tag."""
    needle = f"QEMUVM_SESSION={tag}".encode()
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208  # start-up time counts, pathlib is not loaded
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:  # noqa: PTH123
                if needle in file.read().split(b"\0"):
                    found.append(int(entry))
        except OSError:  # gone, or somebody else's
            continue
    return found


def kill(pid: int, tag: str) -> None:
    """Kill a process if it still is the one that carries the tag, and wait until it has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # The pid may have passed to another process between the search and the pidfd.
        if pid in tagged(tag):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], 5)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def sweep(tag: str, directories: list[str]) -> None:
    """Kill what carries the tag, then remove the directories."""
    for _ in range(PATIENCE):
        pids = tagged(tag)
        if not pids:
            break
        for pid in pids:
            kill(pid, tag)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def watch(parent: int) -> list[str]:
    """Read directories from standard input until it closes or the parent dies; return them."""
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    try:
        pidfd = os.pidfd_open(parent)
    except OSError:
        pidfd = -1  # already gone: what is in the pipe is all there will be
    if pidfd >= 0:
        poll.register(pidfd, select.POLLIN)
    buffer = b""
    while True:
        ready = dict(poll.poll())
        if 0 in ready:
            chunk = os.read(0, 65536)
            buffer += chunk
            if not chunk:
                break
        elif pidfd in ready:
            break
        if pidfd < 0 and not ready:
            break
    return [os.fsdecode(line) for line in buffer.split(b"\n") if line]


if __name__ == "__main__":
    session, owner = sys.argv[1], int(sys.argv[2])
    told = watch(owner)
    watched = [line for line in told if line != GOODBYE]
    sweep(session, watched)
    if GOODBYE not in told:
        select.select([], [], [], LATECOMERS)
        sweep(session, watched)
