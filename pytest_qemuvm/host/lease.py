"""A session's lease: the file that says who it is, and whose lock says that it lives.

The lock is the kernel's ``flock`` itself, taken by the function that the reaper and the sweeps use, which
have the standard library alone. It is on the first VM's way, where a library to import would be felt.
"""

from __future__ import annotations

import os
import time
import weakref
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.locks import sign, timed_out
from pytest_qemuvm.host.paths import runtime_root
from pytest_qemuvm.host.sweep import LEASE, boot_id, give_up, is_still, take

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS = 10.0
"""For a lock that only a sweep of dead sessions could hold, and that for a moment."""
_LOOK_AGAIN = 0.05
"""Seconds between two attempts: flock knows no time-out, and its end is no event."""
_ATTEMPTS = 1000
"""Far more than there can be sessions that end in these very moments."""

_held: weakref.WeakSet[Lease] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Origin:
    """What runs in a session, for those who look at it from outside."""

    directory: str
    """pytest's rootdir."""
    worker: str | None = None
    """The worker of xdist, such as ``gw0``."""
    controller: tuple[int, int] | None = None
    """(pid, start in ticks) of the process that controls the worker."""


class Lease:
    """The lease of this process's session, held by no fork of it.

    Taken before the session makes anything else on the disk.
    """

    def __init__(self, root: Path, tag: str, origin: Origin) -> None:
        self.path = root / f"{tag}{LEASE}"
        """Where it is: beside the session's directory, ``<tag>.lease``."""
        self._what = f"session {tag}"
        self._says = {**asdict(origin), "tag": tag, "boot": boot_id(), "since": time.time()}
        self._descriptor: int | None = None

    @property
    def in_force(self) -> bool:
        """True while this process holds it and others can see that: its file has not been deleted."""
        return self._descriptor is not None and is_still(str(self.path), self._descriptor)

    def take(self) -> None:
        """Make and lock it, and the directory of all sessions if that is missing; nothing if we have it.

        One that was deleted under our feet is made anew. Raises OSError and QemuVMError where that cannot be,
        LockTimeout where somebody else has it.
        """
        if self.in_force:
            return
        self._let_go()
        for attempt in range(_ATTEMPTS):
            try:
                runtime_root()
                self._descriptor = self._locked(Deadline.after(_SECONDS))
            except (FileNotFoundError, FileExistsError):
                # The last session to end has just removed the directory: before our lease was in it, or
                # between mkdir's word that it exists and pathlib's look at it.
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                break
        _held.add(self)

    def _locked(self, deadline: Deadline) -> int:
        while (descriptor := take(str(self.path), os.O_CREAT)) is None:
            if deadline.expired:
                raise timed_out(self.path, self._what, deadline)
            time.sleep(min(_LOOK_AGAIN, deadline.remaining))
        try:
            sign(descriptor, self._says)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def release(self) -> None:
        """Remove it if we have it, and the directory of all sessions if it was the last one."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            give_up(str(self.path), descriptor)
        try:
            self.path.parent.rmdir()
        except OSError:
            return  # somebody else's session is in it

    def _let_go(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _let_go_in_a_fork() -> None:
    """Close what a fork has inherited: it would hold on to a lease for as long as it lives."""
    for lease in list(_held):
        lease._let_go()  # noqa: SLF001  # of the same module
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_a_fork)
