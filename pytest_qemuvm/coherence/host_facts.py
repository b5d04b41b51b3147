"""What the host knows of a session: its processes, its files, locks on its disks, network devices."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.coherence.facts import FileFact, ProcessFact
from pytest_qemuvm.host.sweep import TAG_VARIABLE, stat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_SETTLED_SECONDS = 1.0
"""After which a process that was seen has surely left the fork that made it for its exec."""
_EXEC_PATIENCE = 50
"""Looks, a millisecond apart, at a process that has no command line."""
_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD of the kernel's ``include/linux/sched.h``, in the flags of proc(5)'s stat."""
_DEPTH = 3
"""Levels of the session's directory that are looked at: its own, a VM's, and what lies in a VM's."""


class ProcessScan:
    """Finds the processes that carry a session's tag, in their environment or as the name of a VM.

    Reading what every process of the host was started with takes milliseconds, so it is read once for each.
    Until its exec a new process looks like its parent: it is read again while it is young.
    """

    def __init__(self, tag: str) -> None:
        # As in the name of every QEMU of ours. The tag alone is in every path of the session's, and so on the
        # command line of whoever reads one.
        self._needle = f"@{tag}".encode()
        self._variable = f"{TAG_VARIABLE}={tag}".encode()
        # By the pid and the identity of its directory in /proc, which no later process of that pid shares.
        self._strangers: dict[tuple[int, int], float] = {}
        """Until when each of them may still become one of ours."""
        self._ours: dict[tuple[int, int], tuple[str, ...]] = {}
        # What is older than this process is not of its session.
        self._begin = stat(os.getpid())[1]

    def find(self) -> frozenset[ProcessFact]:
        """Return the processes of the session but this one, zombies that once were among them included."""
        seen = set()
        found = []
        now = time.monotonic()
        with os.scandir("/proc") as entries:
            pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
        for pid in pids:
            try:
                key = (pid, os.stat(f"/proc/{pid}").st_ino)  # noqa: PTH116  # hundreds of them in each test
                seen.add(key)
                if self._strangers.get(key, now) < now or pid == os.getpid():
                    continue
                fact = self._look(key)
                if fact is not None:
                    found.append(fact)
                elif key not in self._strangers:
                    self._strangers[key] = now + self._patience(pid)
            except OSError:  # gone meanwhile
                continue
        self._strangers = {key: until for key, until in self._strangers.items() if key in seen}
        self._ours = {key: argv for key, argv in self._ours.items() if key in seen}
        return frozenset(found)

    def _patience(self, pid: int) -> float:
        return _SETTLED_SECONDS if stat(pid)[1] >= self._begin else -1.0

    def _look(self, key: tuple[int, int]) -> ProcessFact | None:
        pid = key[0]
        if key not in self._ours:
            argv = self._argv_if_tagged(pid)
            if argv is None:
                return None
            self._ours[key] = argv
        state, start = stat(pid)
        return ProcessFact(pid, start, state == b"Z", self._ours[key])

    def _argv_if_tagged(self, pid: int) -> tuple[str, ...] | None:
        command = _command_line(pid)
        if self._needle not in command:
            try:
                if self._variable not in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    return None
            except (PermissionError, ProcessLookupError):  # somebody else's; a thread of the kernel
                return None
        return tuple(word.decode(errors="replace") for word in command.rstrip(b"\0").split(b"\0"))


def _command_line(pid: int) -> bytes:
    """Return a process's command line; of a zombie or a thread of the kernel, which have none, nothing.

    In the middle of an exec there is none yet, although whoever started the process may have been told that
    it runs. Nothing tells when there is one; it takes microseconds.
    """
    for _ in range(_EXEC_PATIENCE):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if command:
            return command
        # The fields after the name, which stands in parentheses and may contain some itself (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        if fields[0] == b"Z" or int(fields[6]) & _KERNEL_THREAD:
            break
        time.sleep(0.001)
    return b""


def files_below(root: Path) -> frozenset[FileFact]:
    """Return what is in a session's directory, directories left out; nothing where there is none."""
    return frozenset(_walk(str(root), _DEPTH))


def _walk(directory: str, depth: int) -> Iterator[FileFact]:
    try:
        with os.scandir(directory) as entries:
            found = list(entries)
    except FileNotFoundError:
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            if depth > 1:
                yield from _walk(entry.path, depth - 1)
        else:
            yield FileFact(Path(entry.path), _is_socket(entry))


def _is_socket(entry: os.DirEntry[str]) -> bool:
    try:
        return not (entry.is_file() or entry.is_symlink()) and Path(entry.path).is_socket()
    except OSError:
        return False


def lockers(paths: Iterable[Path], ours: frozenset[int]) -> Mapping[Path, tuple[int, ...]]:
    """Return which processes, but ours, hold a lock on which files.

    The kernel lists locks by inode; of the kind that QEMU takes it does not say whose they are, so who has
    such a file open is looked for.
    """
    locked = _locked_inodes()
    suspects = {}
    for path in paths:
        try:
            if path.stat().st_ino in locked:
                suspects[str(path)] = path
        except OSError:
            continue
    if not suspects:
        return {}
    holding: dict[Path, set[int]] = {}
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):  # noqa: PTH208
        for target in open_files(pid).intersection(suspects) if pid not in ours else ():
            holding.setdefault(suspects[target], set()).add(pid)
    return {path: tuple(sorted(pids)) for path, pids in holding.items()}


def _locked_inodes() -> set[int]:
    lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    # "1: OFDLCK ADVISORY READ -1 00:2f:4711 0 EOF"; a line with "->" is of one who waits.
    fields = [line.split() for line in lines if "->" not in line]
    return {int(field[5].rpartition(":")[2]) for field in fields if len(field) > 5}


def open_files(pid: int) -> frozenset[str]:
    """Return the paths that a process has open; none of one that is gone or somebody else's."""
    found = set()
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                    found.add(os.readlink(entry.path))  # noqa: PTH115  # a score of them in each check
    except OSError:
        pass
    return frozenset(found)


def network_devices(tag: str) -> frozenset[str]:
    """Return the network devices of the host whose name or alias carries the session's tag."""
    found = set()
    # Asked of the kernel: what lies in /sys is of the network namespace in which that was mounted.
    for _, device in socket.if_nameindex():
        if tag in device:
            found.add(device)
            continue
        try:
            with open(f"/sys/class/net/{device}/ifalias", encoding="utf-8") as file:  # noqa: PTH123
                if tag in file.read():
                    found.add(device)
        except OSError:
            continue
    return frozenset(found)
