"""The half of a TCP connection that takes bytes in. Pure.

Numbers are those of ``tcp.near``: they do not begin again.
"""

from __future__ import annotations

from bisect import insort

PIECES = 256
"""What came early is kept, in so many pieces."""


class Receiver:
    """Puts what comes into order, and says how much more may come."""

    def __init__(self, first: int, room: int, mss: int) -> None:
        self.next = first
        """The number of the byte that is to come next."""
        self.ready = bytearray()
        """What has come and was not taken yet."""
        self.ended = False
        """Whether the other end has said that nothing more comes, and all has come."""
        self._room = room
        self._step = min(mss, room // 2)
        self._edge = first + room
        """The end of what the other end has been told it may send; it never moves back."""
        self._early: list[tuple[int, bytes]] = []
        self._finish: int | None = None

    @property
    def _limit(self) -> int:
        """The end of what there is room for."""
        return self.next + self._room - len(self.ready)

    def fits(self, begins: int, size: int) -> bool:
        """Return whether some of a segment is what may come now."""
        if not size:
            return self.next <= begins <= self._limit
        return begins < self._limit and begins + size > self.next and not self.ended

    def hear(self, begins: int, payload: bytes, *, finishes: bool) -> None:
        """Take in what fits of a segment; ``finishes``: it says that nothing follows."""
        if self.ended:
            return
        if begins < self.next:
            payload = payload[self.next - begins :]
            begins = self.next
        limit = self._limit if self._finish is None else min(self._limit, self._finish)
        if len(payload) > limit - begins:
            payload, finishes = payload[: max(0, limit - begins)], False
        if finishes:
            self._finish = begins + len(payload)
        if begins > self.next:
            if payload and len(self._early) < PIECES:
                insort(self._early, (begins, payload))
        else:
            self._append(payload)
            while self._early and self._early[0][0] <= self.next:
                start, early = self._early.pop(0)
                self._append(early[self.next - start :])
        if self.next == self._finish:
            self.next += 1
            self.ended = True
            self._early.clear()

    def taken(self, count: int) -> None:
        """Note that so many bytes of what was ready have been taken."""
        del self.ready[:count]

    def window(self) -> int:
        """Return how many bytes the other end may send from now on. It is told so."""
        # Telling of a few bytes would have it send a few bytes (RFC 9293, 3.8.6.2.2).
        if self._limit - self._edge >= self._step:
            self._edge = self._limit
        return max(0, self._edge - self.next)

    @property
    def has_opened(self) -> bool:
        """Whether there is so much more room than the other end knows that it should be told."""
        return not self.ended and self._limit - self._edge >= self._room // 2

    def _append(self, data: bytes) -> None:
        self.ready += data
        self.next += len(data)
