"""The main loop: descriptors, timers, and work that is put off until the current callback has returned."""

from __future__ import annotations

import select
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_WAIT = 60_000
"""Milliseconds; the kernel takes no more than an int of them."""


class Loop:
    """One thread waits for everything, as QEMU's own main loop does."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._watched: dict[int, Callable[[int], object]] = {}
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._soon: list[Callable[[], object]] = []
        self._count = 0
        self._running = True

    def watch(self, fd: int, callback: Callable[[int], object], events: int = select.POLLIN) -> None:
        """Call ``callback`` with the events whenever there are some on ``fd``; once more: change them."""
        self._watched[fd] = callback
        self._poll.register(fd, events)

    def forget(self, fd: int) -> None:
        """Watch a descriptor no more; one that is not watched is no error."""
        if self._watched.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def soon(self, callback: Callable[[], object]) -> None:
        """Call it when what is being done now is over, and what was put off before."""
        self._soon.append(callback)

    def later(self, milliseconds: float, callback: Callable[[], object]) -> None:
        """Call it after that time."""
        self._count += 1
        self._timers.append((monotonic() + milliseconds / 1000, self._count, callback))
        self._timers.sort(key=lambda timer: timer[:2])

    def stop(self) -> None:
        """Leave ``run`` as soon as the current callback has returned."""
        self._running = False

    def run(self) -> None:
        """Wait and call until ``stop``."""
        while self._running:
            self._run_once()

    def _run_once(self) -> None:
        while self._soon and self._running:
            self._soon.pop(0)()
        if not self._running:
            return
        now = monotonic()
        while self._timers and self._timers[0][0] <= now:
            self._timers.pop(0)[2]()
            if self._soon or not self._running:
                return
        timeout = None
        if self._timers:
            timeout = min(max(0.0, self._timers[0][0] - monotonic()) * 1000, _LONGEST_WAIT)
        for fd, events in self._poll.poll(timeout):
            callback = self._watched.get(fd)
            if callback is not None and self._running:
                callback(events)
                while self._soon and self._running:
                    self._soon.pop(0)()
