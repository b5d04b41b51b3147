"""The half of a TCP connection that sends bytes: windows, congestion and retransmission. Pure.

Numbers are those of ``tcp.near``: they do not begin again. Times are seconds of any one clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 128 << 10
"""Bytes that may wait here: sent and not acknowledged, or not sent yet."""
FIRST_TIMEOUT, SHORTEST_TIMEOUT, LONGEST_TIMEOUT = 1.0, 0.2, 2.0
"""Seconds until something is sent again. Lines are short here, and who heals one does not want to wait."""
_FIRST_WINDOW = 10
"""Segments that are sent at once (RFC 6928)."""
_REPEATS = 3
"""Acknowledgements of the same number that mean a loss (RFC 5681)."""


class Burst(NamedTuple):
    """What goes into one segment."""

    begins: int
    payload: bytes
    finishes: bool

    @property
    def ends(self) -> int:
        """The number after its last one."""
        return self.begins + len(self.payload) + self.finishes


class RoundTrip:
    """How long an answer takes, and so how long to wait for one (RFC 6298)."""

    def __init__(self) -> None:
        self.timeout = FIRST_TIMEOUT
        self._mean: float | None = None
        self._varies = 0.0

    def took(self, seconds: float) -> None:
        """Note how long something that was sent once took."""
        if self._mean is None:
            self._mean, self._varies = seconds, seconds / 2
        else:
            self._varies += (abs(self._mean - seconds) - self._varies) / 4
            self._mean += (seconds - self._mean) / 8
        self.timeout = min(max(self._mean + 4 * self._varies, SHORTEST_TIMEOUT), LONGEST_TIMEOUT)

    def back_off(self) -> None:
        """Wait longer next time."""
        self.timeout = min(self.timeout * 2, LONGEST_TIMEOUT)


class Sender:
    """Keeps what was sent until the other end has it. Congestion is NewReno's (RFC 5681, 6582)."""

    def __init__(self, first: int, mss: int, window: int) -> None:
        self.unheard = first
        """The oldest number that is not acknowledged."""
        self.top = first
        """The end of what was ever sent."""
        self.next = first
        """What is sent next; below the top where something is sent again."""
        self.window = window
        """Bytes that the other end takes, from the oldest that is not acknowledged."""
        self.due: float | None = None
        """When ``tick`` has something to do."""
        self.waits_since: float | None = None
        """Since when the other end has had something to acknowledge, or a window to open."""
        self.round_trip = RoundTrip()
        self._mss = mss
        self._waiting = bytearray()
        self._finish: int | None = None
        self._congestion, self._threshold = _FIRST_WINDOW * mss, LIMIT
        self._repeats = 0
        self._recovering = False
        self._recover = first
        """Losses before this number are one and the same."""
        self._timed: tuple[int, float] | None = None
        self._again = self._probe = False

    @property
    def room(self) -> int:
        """How many bytes more may wait."""
        return LIMIT - len(self._waiting)

    @property
    def finishing(self) -> bool:
        """Whether nothing more will be given."""
        return self._finish is not None

    @property
    def done(self) -> bool:
        """Whether the other end has everything, and knows that it is everything."""
        return self._finish is not None and self.unheard > self._finish

    def give(self, data: bytes) -> None:
        """Have bytes sent."""
        self._waiting += data

    def finish(self) -> None:
        """Have the other end told, after all bytes, that no more follow."""
        if self._finish is None:
            self._finish = self.unheard + len(self._waiting)

    def hear(self, acknowledged: int, window: int, now: float, *, bare: bool) -> None:
        """Note an acknowledgement of what was sent; ``bare``: nothing else came with it."""
        flying = self.top > self.unheard
        if acknowledged > self.unheard:
            self._advance(acknowledged, now)
        elif flying and bare and acknowledged == self.unheard and window == self.window:
            self._repeat()
        if window and not self.window and not flying:
            self.due = None  # the time for asking whether the window is open
        self.window = window

    def tick(self, now: float) -> None:
        """Do what is due: send again, or ask whether the window is open."""
        if self.due is None or now < self.due:
            return
        self.due = None
        self._timed = None
        self.round_trip.back_off()
        if not self.window:
            self._probe = True
        elif self.top > self.unheard:
            self._threshold = max((self.top - self.unheard) // 2, 2 * self._mss)
            self._congestion = self._mss
            self._recovering, self._recover = False, self.top
            self._repeats = 0
            self.next = self.unheard

    def bursts(self, now: float) -> Iterator[Burst]:
        """Yield what is to be sent now."""
        if self._probe:
            # A number that was acknowledged long ago asks for an answer and is no byte.
            yield Burst(self.unheard - 1, b"", finishes=False)
        if self._again and self.window:
            burst = self._burst(self.unheard, min(self._mss, self.window))
            # There may be more to say by now than there was when it was sent first.
            self.top = max(self.top, burst.ends)
            self.next = max(self.next, burst.ends)
            self._timed = self.due = None
            yield burst
        self._probe = self._again = False
        end = self.unheard + len(self._waiting)
        limit = self.unheard + min(self.window, self._congestion)
        while (size := self._size(end, limit)) >= 0:
            burst = self._burst(self.next, size)
            if self._timed is None and self.next >= self.top:
                self._timed = self.next + size, now
            self.next = burst.ends
            self.top = max(self.top, self.next)
            yield burst
        is_blocked = not self.window and self._left(end)
        if self.top == self.unheard and not is_blocked:
            self.due = self.waits_since = None
            return
        if self.waits_since is None:
            self.waits_since = now
        if self.due is None:
            self.due = now + self.round_trip.timeout

    def _left(self, end: int) -> bool:
        """Return whether there is something that was not sent yet, or is to be sent again."""
        return self.next < end or self.next == self._finish

    def _size(self, end: int, limit: int) -> int:
        """Return how many bytes are sent next; a negative number: nothing."""
        size = min(self._mss, end - self.next, limit - self.next)
        if size <= 0:
            return 0 if self.next == self._finish and limit > self.next else -1
        # A few bytes now would be a few bytes each time (RFC 9293, 3.8.6.2.1).
        if size < self._mss and self.next + size < end and self.next > self.unheard:
            return -1
        return size

    def _burst(self, begins: int, size: int) -> Burst:
        offset = begins - self.unheard
        payload = bytes(self._waiting[offset : offset + size])
        return Burst(begins, payload, finishes=begins + len(payload) == self._finish)

    def _advance(self, acknowledged: int, now: float) -> None:
        count = acknowledged - self.unheard
        del self._waiting[:count]
        self.unheard = acknowledged
        self.next = max(self.next, acknowledged)
        self._repeats = 0
        self.due = None
        if self._timed is not None and acknowledged >= self._timed[0]:
            self.round_trip.took(now - self._timed[1])
            self._timed = None
        if not self._recovering:
            slow_start = self._congestion < self._threshold
            grown = count if slow_start else max(1, self._mss * count // self._congestion)
            self._congestion = min(self._congestion + grown, LIMIT)
        elif acknowledged < self._recover:  # the next hole
            self._again = True
            self._congestion = max(self._congestion - count, 0) + self._mss
        else:
            self._recovering = False
            self._congestion = self._threshold

    def _repeat(self) -> None:
        self._repeats += 1
        if self._recovering:
            self._congestion = min(self._congestion + self._mss, LIMIT)
        elif self._repeats == _REPEATS and self.unheard >= self._recover:
            self._threshold = max((self.top - self.unheard) // 2, 2 * self._mss)
            self._congestion = self._threshold + _REPEATS * self._mss
            self._recovering, self._recover = True, self.top
            self._again = True
