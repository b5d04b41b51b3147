"""One TCP connection that somebody else has asked for (RFC 9293). Pure: it is told segments, bytes and times.

Whoever holds it calls ``output`` after anything else, sends what that returns, and calls ``tick`` when it is
``due``.
"""

from __future__ import annotations

from typing import Literal

from pytest_qemuvm.host.switch import tcp
from pytest_qemuvm.host.switch.tcp import ACK, FIN, PSH, RST, SYN, TcpSegment, near
from pytest_qemuvm.host.switch.tcp_receiver import Receiver
from pytest_qemuvm.host.switch.tcp_sender import FIRST_TIMEOUT, Sender

ROOM = 128 << 10
"""Bytes that may wait to be taken."""
LINGER = 1.0
"""Seconds in which the other end may say again that it has ended: several of its first time-outs."""
PATIENCE = 900.0
"""Seconds after which one who does not answer is gone: a test may have its machine stand still."""
_SCALE = 2
_WIDEST = 0xFFFF
_GREETINGS = 6
_FAR = 1 << 30

Phase = Literal["opening", "greeting", "open", "lingering", "closed"]


class Connection:
    """Our end of a connection.

    It is ``opening`` until ``accept`` is called, which greets the other end; ``open`` when that has answered;
    ``lingering`` when both have ended and the last acknowledgement may have been lost.
    """

    def __init__(self, asked: TcpSegment, first: int, now: float) -> None:
        self.phase: Phase = "opening"
        self.broken = False
        """Whether it has ended before both ends had everything."""
        self._ours, self._theirs = asked.target, asked.source
        self._scale = None if asked.scale is None else _SCALE
        self._their_scale = asked.scale or 0
        mss = min(tcp.MSS_UNSAID if asked.mss is None else asked.mss, tcp.MSS)
        self._first = first
        self.receiver = Receiver(asked.sequence + 1, _WIDEST if self._scale is None else ROOM, tcp.MSS)
        self.sender = Sender(first + 1, mss, asked.window)
        self._latest = (asked.sequence, first)
        """Where the segment came from that said the window last."""
        self._heard = now
        self._said: list[TcpSegment] = []
        self._owes = False
        """Whether the other end is to be told what we have, with or without data."""
        self._greetings = 0
        self._due: float | None = None

    @property
    def due(self) -> float | None:
        """When ``tick`` has something to do; None: not before something happens."""
        if self.phase == "open":
            return self.sender.due
        return self._due if self.phase in ("greeting", "lingering") else None

    @property
    def is_over(self) -> bool:
        """Whether the other end needs no more bytes of ours and sends none."""
        return self.phase in ("lingering", "closed")

    def accept(self, now: float) -> None:
        """Tell the other end that it may begin."""
        self.phase = "greeting"
        self._greet(now)

    def give(self, data: bytes) -> None:
        """Send bytes, no more than ``sender.room``."""
        self.sender.give(data)

    def finish(self) -> None:
        """Send no more after what was given."""
        self.sender.finish()

    def taken(self, count: int) -> None:
        """Note that so many bytes of ``receiver.ready`` were taken."""
        self.receiver.taken(count)
        if self.receiver.has_opened:
            self._owes = True

    def abort(self) -> None:
        """End it at once, and say so."""
        if self.phase == "opening":
            self._say(RST | ACK, 0)
        elif not self.is_over:
            self._say(RST | ACK, self.sender.top)
        self._break()

    def probe(self) -> TcpSegment:
        """Return a segment to which an end that knows of the connection answers with the number it waits for.

        The answer to that answer is a reset, if nobody here knows of the connection any more.
        """
        # Far from all that it could wait for: what is near may be let pass without a word.
        return self._segment(ACK, self.sender.unheard - _FAR)

    def hear(self, heard: TcpSegment, now: float) -> None:
        """Take in a segment of the other end's."""
        begins = near(heard.sequence, self.receiver.next)
        if heard.flags & RST:
            self._hear_reset(begins)
        elif heard.flags & SYN:
            self._hear_syn(begins, now)
        elif self.phase not in ("opening", "closed") and heard.flags & ACK:
            self._heard = now
            if self._hear_acknowledgement(heard, begins, now):
                self._hear_data(heard, begins, now)
                self._settle(now)

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self.due is None or now < self.due:
            return
        if self.phase == "lingering":
            self.phase = "closed"
        elif self.phase == "greeting" and self._greetings < _GREETINGS:
            self._greet(now)
        elif self.phase == "greeting" or self._is_impatient(now):
            self.abort()
        else:
            self.sender.tick(now)

    def output(self, now: float) -> list[TcpSegment]:
        """Return what is to be sent now."""
        said, self._said = self._said, []
        if self.phase == "open":
            for burst in self.sender.bursts(now):
                flags = ACK | (FIN if burst.finishes else 0) | (PSH if burst.payload else 0)
                said.append(self._segment(flags, burst.begins, burst.payload))
                self._owes = False
        if self._owes:
            # Not what is sent again next: it would be answered as what has come already, and so on for ever.
            said.append(self._segment(ACK, self.sender.top))
            self._owes = False
        return said

    def _is_impatient(self, now: float) -> bool:
        since = self.sender.waits_since
        return since is not None and now - max(since, self._heard) > PATIENCE

    def _greet(self, now: float) -> None:
        self._greetings += 1
        self._due = now + FIRST_TIMEOUT
        window = min(self.receiver.window(), _WIDEST)  # which is never scaled here
        self._said.append(
            TcpSegment(
                self._ours, self._theirs, self._first, self.receiver.next, SYN | ACK, window, b"",
                tcp.MSS, self._scale,
            )
        )  # fmt: skip

    def _hear_reset(self, begins: int) -> None:
        # RFC 5961: one that only guesses is asked whether it means it.
        if begins == self.receiver.next:
            self._break()
        elif self.phase not in ("opening", "closed") and self.receiver.fits(begins, 0):
            self._owes = True

    def _hear_syn(self, begins: int, now: float) -> None:
        if self.phase == "greeting" and begins == self.receiver.next - 1:
            self._greet(now)
        elif self.phase not in ("opening", "closed"):
            self._owes = True

    def _hear_acknowledgement(self, heard: TcpSegment, begins: int, now: float) -> bool:
        """Take in what the other end has of ours; return whether the segment makes sense at all."""
        acknowledged = near(heard.acknowledged, self.sender.unheard)
        if self.phase == "greeting":
            if acknowledged != self.sender.unheard:
                refusal = tcp.refusal(heard)
                if refusal is not None:
                    self._said.append(refusal)
                return False
            self.phase = "open"
            self._latest = (begins, acknowledged)
        if acknowledged > self.sender.top:
            self._owes = True
            return False
        window = self.sender.window
        # What is overtaken on its way may be about a window of long ago.
        if (begins, acknowledged) >= self._latest:
            self._latest = (begins, acknowledged)
            window = heard.window << self._their_scale
        self.sender.hear(acknowledged, window, now, bare=not heard.size)
        return True

    def _hear_data(self, heard: TcpSegment, begins: int, now: float) -> None:
        if not self.receiver.fits(begins, heard.size):
            self._owes = True
            if self.phase == "lingering":
                self._due = now + LINGER
        elif heard.size:
            self.receiver.hear(begins, heard.payload, finishes=bool(heard.flags & FIN))
            self._owes = True

    def _settle(self, now: float) -> None:
        """Note whether both ends have everything."""
        if self.phase != "open" or not (self.sender.done and self.receiver.ended):
            return
        # If an acknowledgement is owed, it is the last one, and nobody tells us whether it got there.
        self.phase = "lingering" if self._owes else "closed"
        self._due = now + LINGER

    def _break(self) -> None:
        if not self.is_over:
            self.broken = True
        self.phase = "closed"
        self._owes = False

    def _say(self, flags: int, sequence: int) -> None:
        self._said.append(self._segment(flags, sequence))

    def _segment(self, flags: int, sequence: int, payload: bytes = b"") -> TcpSegment:
        window = self.receiver.window() >> (self._scale or 0)
        return TcpSegment(
            self._ours, self._theirs, sequence, self.receiver.next, flags, min(window, _WIDEST), payload
        )
