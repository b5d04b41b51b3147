"""One deadline goes down the call chain, so that nested waits cannot add up to more than was granted."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from pytest_qemuvm.errors import SpecError

LONGEST = 10 * 86400.0
"""Seconds that are as good as for ever: poll() and the locks take no infinity."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock by which something must have happened."""

    at: float
    """The moment, in seconds of ``time.monotonic()``."""
    seconds: float
    """How long was granted in all, for the error message."""

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline that many seconds from now; infinity is one that nobody lives to see.

        Raises SpecError for what is no number of seconds.
        """
        given: object = seconds
        if not isinstance(given, (int, float)) or isinstance(given, bool) or math.isnan(given):
            raise SpecError(f"{seconds!r} is not a number of seconds to wait")
        return cls(time.monotonic() + min(seconds, LONGEST), seconds)

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        """True once the moment has passed."""
        return time.monotonic() >= self.at

    def sooner(self, seconds: float) -> Deadline:
        """Return the earlier of this deadline and one that many seconds from now."""
        other = Deadline.after(seconds)
        return other if other.at < self.at else self
