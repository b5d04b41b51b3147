"""What several faults do to one guest and adds up: memory that is taken, a clock that jumps."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(slots=True)
class Strain:
    """The sums of one run of a machine. The order in which faults heal makes no difference to them."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held by whoever changes one of them, until the guest has followed."""
    memory: int = 0
    """How much memory the guest had before any was taken, in bytes."""
    taken: list[int] = field(default_factory=list)
    """What was taken, in bytes."""
    clock: float = 0.0
    """By how much the guest's clock differed from the host's before the first jump, in seconds."""
    jumps: list[float] = field(default_factory=list)
    """By how much it jumped, in seconds."""
    starved: bool = False
    """Whether nobody feeds its watchdog: that is no sum, and nothing that can be done twice."""
    boot: str | None = None
    """The boot in which it did: the next one reads the time anew."""
