"""When a process has come to rest: by the processor time that it uses."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_qemuvm.host.deadline import Deadline

WINDOW = 0.25
"""Seconds over which the use is measured."""
AT_REST = 0.04
"""The share of one processor below which a process is at rest; an idle guest takes about 0.01."""
MOST = 8.0
"""Seconds after which a process is taken as it is: one that never rests is no error."""


def wait_quiet(pid: int, deadline: Deadline) -> bool:
    """Wait until a process is at rest for one window; return whether it came to that in time.

    The kernel tells nobody when a process begins to rest, so this looks at the clock that it keeps for it.
    """
    limit = deadline.sooner(MOST)
    used = _used(pid)
    while not limit.expired:
        time.sleep(WINDOW)
        before, used = used, _used(pid)
        if used - before <= AT_REST * WINDOW:
            return True
    return False


def _used(pid: int) -> float:
    """Return the processor time that a process has used, in seconds."""
    return time.clock_gettime(_clock_of(pid))


def _clock_of(pid: int) -> int:
    """Return the clock of a process's processor time: what clock_getcpuclockid(3) computes."""
    return (~pid << 3) | 2
