"""A session's lease: the file that says who it is, and whose lock says that it lives."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.locks import FileLock
from pytest_qemuvm.host.paths import runtime_root
from pytest_qemuvm.host.sweep import LEASE, boot_id

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS = 10.0
"""For a lock that only a sweep of dead sessions could hold, and that for a moment."""
_ATTEMPTS = 1000
"""Far more than there can be sessions that end in these very moments."""


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
    """The lease of this process's session. Taken before the session makes anything else on the disk."""

    def __init__(self, root: Path, tag: str, origin: Origin) -> None:
        self._root = root
        says = {**asdict(origin), "tag": tag, "boot": boot_id(), "since": time.time()}
        self._lock = FileLock(root / f"{tag}{LEASE}", f"session {tag}", says)

    @property
    def path(self) -> Path:
        """Where it is: beside the session's directory, ``<tag>.lease``."""
        return self._lock.path

    def take(self) -> None:
        """Make and lock it, and the directory of all sessions if that is missing; nothing if we have it.

        One that was deleted under our feet is made anew. Raises OSError and QemuVMError where that cannot be.
        """
        if self._lock.in_force:
            return
        self._lock.release()
        for attempt in range(_ATTEMPTS):
            try:
                runtime_root()
                self._lock.acquire(Deadline.after(_SECONDS))
            except FileNotFoundError:
                # The last session to end has just removed the directory.
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def release(self) -> None:
        """Remove it, and the directory of all sessions if it was the last one."""
        self._lock.release(remove=True)
        try:
            self._root.rmdir()
        except OSError:
            return  # somebody else's session is in it
