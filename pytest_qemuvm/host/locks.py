"""Locks between processes that the kernel frees when their holder dies, and that say who holds them.

A lock is the kernel's ``flock`` on a file whose content names the holder. The file stays when the lock is let
go, unless the holder removes it while he holds it; nobody else ever does. A file without a holder, as after a
power cut, is simply taken.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import weakref
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import LockTimeout
from pytest_qemuvm.host.sweep import is_still, read_json, start_ticks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pytest_qemuvm.host.deadline import Deadline

_LOOK_AGAIN = 0.05
"""Seconds between two attempts: flock knows no time-out, and its end is no event."""

_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """A lock on a file, held by this process and by no fork of it."""

    def __init__(self, path: Path, what: str, says: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._what = what
        self._says = says or {}
        self._descriptor: int | None = None

    @property
    def in_force(self) -> bool:
        """True while this process holds it and others can see that: its file has not been deleted."""
        return self._descriptor is not None and is_still(str(self.path), self._descriptor)

    def acquire(self, deadline: Deadline, waiting: Callable[[str], object] = lambda _holder: None) -> None:
        """Take it, waiting for it as long as the deadline lets us; ``waiting`` is told once for whom.

        Raises LockTimeout, which names the holder, and OSError where there can be no such file.
        """
        told = False
        while (descriptor := self._tried()) is None:
            holder = self.holder()
            if deadline.expired:
                raise LockTimeout(
                    f"{self._what} is locked by {holder}",
                    str(self.path),
                    "it is free as soon as that process has ended",
                    holder=holder,
                    waited_for=self._what,
                    seconds=deadline.seconds,
                )
            if not told:
                waiting(holder)
                told = True
            time.sleep(min(_LOOK_AGAIN, deadline.remaining))
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({**_myself(), **self._says}).encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held.add(self)

    def _tried(self) -> int | None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its holder may have removed the file between our open and our lock: then it locks nothing.
            if is_still(str(self.path), descriptor):
                return descriptor
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def holder(self) -> str:
        """Say who holds it, as its file says; there may be nobody."""
        says = read_json(str(self.path))
        if "pid" not in says:
            return "a process that has not said who it is"
        test = f", {says['test']}" if says.get("test") else ""
        return f"pid {says['pid']}{test}"

    def release(self, *, remove: bool = False) -> None:
        """Let it go if it is held; with ``remove`` its file goes first, while nobody else can have it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        _held.discard(self)
        try:
            # What was made anew under that name, after ours was deleted, is somebody else's.
            if remove and is_still(str(self.path), descriptor):
                self.path.unlink(missing_ok=True)
            elif not remove:
                os.ftruncate(descriptor, 0)
        finally:
            # Not by closing alone: a child that is just being forked has it open as well.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _forget(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def locked(
    path: Path, what: str, deadline: Deadline, waiting: Callable[[str], object] = lambda _holder: None
) -> Iterator[None]:
    """Hold a lock. Raises LockTimeout; what is raised inside comes out as it is."""
    lock = FileLock(path, what)
    lock.acquire(deadline, waiting)
    try:
        yield
    finally:
        lock.release()


def _myself() -> dict[str, Any]:
    """Return who this process is: pid, start, and the test it runs, if it is the main thread of a pytest."""
    pid = os.getpid()
    # pytest says "node id (phase)".
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0] or None
    return {"pid": pid, "ticks": start_ticks(pid), "test": test}


def _let_go_in_a_fork() -> None:
    """Close what a fork has inherited: it would hold on to a lock for as long as it lives."""
    for lock in list(_held):
        lock._forget()  # noqa: SLF001  # of the same module
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_a_fork)
