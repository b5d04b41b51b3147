"""The events of one monitor: numbered as they arrive, kept in a bounded log, awaited without a race."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_qemuvm.errors import QmpError

Match = Mapping[str, Any] | Callable[[dict[str, Any]], object]
"""What an event's data must be: a mapping whose keys it has with equal values (nested mappings likewise), or
a callable on the data that returns something true."""

Names = str | tuple[str, ...]
"""One event name or several, any of which will do."""

CAPACITY = 16_384
"""How many events a log keeps by default."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event that QEMU sent."""

    name: str
    data: dict[str, Any]
    seq: int
    """Its place among all events of the connection, from 1."""
    timestamp: float
    """When QEMU sent it, in seconds since the epoch by the host's clock."""


def fits(event: Event, names: Names | None, match: Match | None) -> bool:
    """Return whether the event has one of the names and data that match; None asks for nothing."""
    if names is not None and event.name != names and (isinstance(names, str) or event.name not in names):
        return False
    if match is None:
        return True
    return bool(match(event.data)) if callable(match) else _contains(event.data, match)


def _contains(data: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    for key, value in wanted.items():
        if key not in data:
            return False
        found = data[key]
        if isinstance(value, Mapping) and isinstance(found, Mapping):
            if not _contains(found, value):
                return False
        elif found != value:
            return False
    return True


class EventWait(Future[Event]):
    """A future that the first fitting event resolves; from ``EventLog.wait``, until ``EventLog.forget``."""

    def __init__(self, names: Names | None, match: Match | None) -> None:
        super().__init__()
        # A running future cannot be cancelled, so that whoever resolves it need not fear a race.
        self.set_running_or_notify_cancel()
        self._names = names
        self._match = match

    def settle(self, event: Event) -> bool:
        """Resolve the wait if the event fits, or if the caller's own predicate fails on it."""
        try:
            if not fits(event, self._names, self._match):
                return False
        except Exception as error:  # noqa: BLE001  # the caller's predicate; the caller shall see it
            self.set_exception(error)
        else:
            self.set_result(event)
        return True


class EventLog:
    """All events since the connection was made, as far as they are kept; safe to read from any thread.

    The newest ``capacity`` events are kept; ``dropped`` counts those that had to go. Iterating goes over a
    snapshot, oldest first.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._events: deque[Event] = deque(maxlen=capacity)
        self._lock = threading.Lock()
        self._last = 0
        self._waits: list[EventWait] = []
        self._returned: set[int] = set()
        self._shown: dict[str, int] = {}
        """The newest event of each name that a wait has returned, whatever it asked for."""
        self._ending: Callable[[], QmpError] | None = None

    def __iter__(self) -> Iterator[Event]:
        return iter(self.snapshot())

    def __len__(self) -> int:
        return len(self._events)

    def __repr__(self) -> str:
        return f"<EventLog of {len(self)} events, the newest number {self._last}>"

    @property
    def last(self) -> int:
        """The number of the newest event; 0 before the first. What comes later has a higher number."""
        return self._last

    @property
    def dropped(self) -> int:
        """How many events were too old to be kept."""
        return self._last - len(self._events)

    def snapshot(self) -> tuple[Event, ...]:
        """Return the events that are kept, oldest first."""
        with self._lock:
            return tuple(self._events)

    def since(self, seq: int, name: Names | None = None, match: Match | None = None) -> tuple[Event, ...]:
        """Return the kept events newer than number ``seq`` that fit, oldest first."""
        with self._lock:
            # Numbers have no gaps, so the newer ones are so many from the end.
            newer = max(0, min(self._last - seq, len(self._events)))
            fresh = [*islice(reversed(self._events), newer)]
        return tuple(event for event in reversed(fresh) if fits(event, name, match))

    async def follow(
        self, since: int = 0, name: Names | None = None, match: Match | None = None
    ) -> AsyncIterator[Event]:
        """Yield the fitting events newer than number ``since``, those in the log and then each as it comes.

        For coroutines, in whatever loop they run. Each comes once and in order; events that had to go from
        the log before they were asked for show as a gap in the numbers. It ends with QmpDisconnected when no
        more can come.
        """
        import asyncio  # noqa: PLC0415  # only who follows pays for it

        while True:
            for event in self.since(since):
                since = event.seq
                if fits(event, name, match):
                    self.mark_shown(event)
                    yield event
            wait = self.wait(None, None, since)
            try:
                await asyncio.wrap_future(wait)
            finally:
                self.forget(wait)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self.follow()

    def wait(self, names: Names | None, match: Match | None, since: int | None) -> EventWait:
        """Return a future for the first fitting event newer than ``since``, also one already in the log.

        ``since=None`` asks for the oldest event in the log that was not marked by ``mark_returned``.
        """
        wait = EventWait(names, match)
        with self._lock:
            returned = self._returned.copy() if since is None else set()
        seen = since or 0
        while True:
            with self._lock:
                fresh = [event for event in self._events if event.seq > seen] if seen < self._last else []
                ending = self._ending
                if not fresh and ending is None:
                    self._waits.append(wait)
            if not fresh:
                break
            # Outside the lock, because a predicate is foreign code that may well look at the log itself.
            if any(wait.settle(event) for event in fresh if event.seq not in returned):
                return wait
            seen = fresh[-1].seq
        if ending is not None:
            wait.set_exception(ending())
        return wait

    def mark_returned(self, event: Event) -> None:
        """Remember that a wait has returned the event, so that the next one asks for another."""
        with self._lock:
            oldest = self._last - len(self._events)
            self._returned = {seq for seq in self._returned if seq > oldest} | {event.seq}

    def mark_shown(self, event: Event) -> None:
        """Remember that somebody has been given the event."""
        self._shown[event.name] = max(event.seq, self._shown.get(event.name, 0))

    def was_shown(self, event: Event) -> bool:
        """Return whether a wait has returned the event, or a later one of its name."""
        return event.seq <= self._shown.get(event.name, 0)

    def forget(self, wait: EventWait) -> None:
        """Let go of a wait that nobody waits for any more; idempotent."""
        with self._lock:
            if wait in self._waits:
                self._waits.remove(wait)

    def append(self, name: str, data: dict[str, Any], timestamp: float) -> Event:
        """Keep an event under the next number and wake whom it concerns. Only on the loop's thread."""
        with self._lock:
            event = Event(name, data, self._last + 1, timestamp)
            self._events.append(event)
            self._last = event.seq
            waits = tuple(self._waits)
        for wait in waits:
            if wait.settle(event):
                self.forget(wait)
        return event

    def end(self, ending: Callable[[], QmpError]) -> None:
        """Fail every wait, and those to come, with an error from ``ending``: no more events can arrive."""
        with self._lock:
            self._ending = ending
            waits, self._waits = self._waits, []
        for wait in waits:
            wait.set_exception(ending())
