"""Whether the host has a processor to spare: measured over a short window, on the kernel's own account."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

STAT = Path("/proc/stat")
WINDOW = 0.1
"""Seconds over which it is measured: ten of the kernel's ticks."""
SPARE = 0.8
"""Processors that have to be idle over the window, all of them taken together."""
_IDLE, _IOWAIT = 4, 5  # columns of a cpuN line, proc(5)


def has_spare_processor(pause: Callable[[float], object]) -> bool:
    """Return whether the processors that we may use were idle enough, while ``pause`` let time pass.

    Where the kernel says nothing of them there is none to spare. A quota of a control group does not show.
    """
    ours = os.sched_getaffinity(0)
    before, began = idle_ticks(_read(), ours), time.monotonic()
    pause(WINDOW)
    after, seconds = idle_ticks(_read(), ours), time.monotonic() - began
    if seconds < WINDOW / 2:  # woken: too short to tell
        return False
    return after - before >= SPARE * seconds * os.sysconf("SC_CLK_TCK")


def idle_ticks(text: str, processors: Collection[int]) -> int:
    """Return for how many ticks these processors have been idle since boot, from the text of /proc/stat."""
    lines = (line.split() for line in text.splitlines())
    names = {f"cpu{number}" for number in processors}
    return sum(int(words[_IDLE]) + int(words[_IOWAIT]) for words in lines if words and words[0] in names)


def _read() -> str:
    try:
        return STAT.read_text()
    except OSError:
        return ""
