"""Locks between processes that the kernel frees when their holder dies, and that say who holds them.

Whoever has a lock writes into its file who he is. The file stays when the lock is let go; what it says is
read only while somebody has the lock. A file without a holder, as after a power cut, is simply taken.

``locked`` is for what takes seconds: builds and unpacking. The lease of a session is locked by other means,
see ``lease``; both sign their files and name a holder in the same way.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import LockTimeout
from pytest_qemuvm.host.sweep import read_json, start_ticks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pytest_qemuvm.host.deadline import Deadline


@contextlib.contextmanager
def locked(
    path: Path, what: str, deadline: Deadline, waiting: Callable[[str], object] = lambda _holder: None
) -> Iterator[None]:
    """Hold a lock, waiting for it as long as the deadline lets us; ``waiting`` is told once for whom.

    A fork does not hold it. Raises LockTimeout, which names the holder, and OSError where there can be no
    such file; what is raised inside comes out as it is.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415  # 15 ms that only a build should cost

    lock = FileLock(path, mode=0o600, on_acquired=sign)
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        waiting(holder(path))
        try:
            held = lock.acquire(timeout=deadline.remaining)
        except Timeout:
            raise timed_out(path, what, deadline) from None
    with held:
        yield


def sign(descriptor: int, says: Mapping[str, Any] | None = None) -> None:
    """Write into a lock's file who holds it, this process, and what else it says."""
    pid = os.getpid()
    # pytest says "node id (phase)"; there is none outside of a test.
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0] or None
    content = {"pid": pid, "ticks": start_ticks(pid), "test": test, **(says or {})}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(content).encode(), 0)


def holder(path: Path) -> str:
    """Say who holds a lock, as its file says: pid, and the test it runs."""
    says = read_json(str(path))
    if "pid" not in says:
        return "a process that has not said who it is"
    test = f", {says['test']}" if says.get("test") else ""
    return f"pid {says['pid']}{test}"


def timed_out(path: Path, what: str, deadline: Deadline) -> LockTimeout:
    """Return the error for a lock that was not to be had in time."""
    who = holder(path)
    return LockTimeout(
        f"{what} is locked by {who}",
        str(path),
        "it is free as soon as that process has ended",
        holder=who,
        waited_for=what,
        seconds=deadline.seconds,
    )
