"""What happened to a test's machines and networks on its own request, and when: for the report."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that was done."""

    at: float
    """``time.monotonic()``, in seconds."""
    owner: str
    """The test, module or session on whose behalf it was done."""
    text: str


class Timeline:
    """What was done, in order. Any thread may note."""

    def __init__(self) -> None:
        self._moments: list[Moment] = []
        self._attached: list[tuple[str, str, Callable[[], str]]] = []
        self._lock = threading.Lock()

    def note(self, owner: str, text: str) -> None:
        """Note that something has been done for an owner."""
        with self._lock:
            self._moments.append(Moment(time.monotonic(), owner, text))

    def of(self, *owners: str) -> tuple[Moment, ...]:
        """Return what was done for some owners."""
        with self._lock:
            return tuple(moment for moment in self._moments if moment.owner in owners)

    def attach(self, owner: str, title: str, text: Callable[[], str]) -> None:
        """Have something shown beside what was done for an owner; ``text`` is asked when it is shown."""
        with self._lock:
            self._attached.append((owner, title, text))

    def attached(self, *owners: str) -> list[tuple[str, str]]:
        """Return title and text of what was attached for some owners."""
        with self._lock:
            found = [(title, text) for owner, title, text in self._attached if owner in owners]
        return [(title, text()) for title, text in found]

    def forget(self, owner: str) -> None:
        """Forget what was done for an owner, who has ended."""
        with self._lock:
            self._attached = [entry for entry in self._attached if entry[0] != owner]
            self._moments = [moment for moment in self._moments if moment.owner != owner]


def written(moments: tuple[Moment, ...]) -> str:
    """Return moments as lines, each with the seconds since the first one."""
    return "\n".join(f"{moment.at - moments[0].at:+9.3f} s  {moment.text}" for moment in moments)
