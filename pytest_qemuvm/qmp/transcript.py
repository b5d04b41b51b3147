"""What was said on one connection, last things last: the part of a failure report that shows QMP."""

from __future__ import annotations

import heapq
import itertools
import json
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_qemuvm.qmp.events import Event

LENGTH = 200
"""Longer values are cut off at this many characters."""


def shorten(text: str) -> str:
    """Return the text on one line and not much longer than ``LENGTH``."""
    text = " ".join(text.split())
    return text if len(text) <= LENGTH else f"{text[:LENGTH]}... ({len(text)} characters)"


class Transcript:
    """The last exchanges and the last events of a connection, in the order in which they happened.

    Events have a ring of their own, so that a storm of them cannot push the commands out. Entries are made on
    the loop's thread and in callers' threads, and read from anywhere.
    """

    def __init__(self, exchanges: int = 100, events: int = 50) -> None:
        # Two entries for an exchange: what was asked and what came of it.
        self._exchanges: deque[tuple[int, str]] = deque(maxlen=2 * exchanges)
        self._events: deque[tuple[int, Event]] = deque(maxlen=events)
        self._numbers = itertools.count(1)
        self._last_call = ""

    def sent(self, call_id: str, command: str, arguments: str) -> None:
        """Note a command on its way out; ``arguments`` is JSON."""
        self._last_call = call_id
        self._exchanges.append((next(self._numbers), f"-> {command} {shorten(arguments)}"))

    def refused(self, command: str, why: str) -> None:
        """Note a command that was not sent at all."""
        self._exchanges.append((next(self._numbers), f"-- not sent: {shorten(command)}: {shorten(why)}"))

    def answered(self, call_id: str, command: str, raw: bytes, seconds: float) -> None:
        """Note the reply to a command; ``raw`` is the whole line that came."""
        self._outcome(call_id, command, _reply_text(raw, call_id), seconds)

    def unanswered(self, call_id: str, command: str, why: str, seconds: float) -> None:
        """Note that a command got no reply in its caller's time."""
        self._outcome(call_id, command, f"no reply: {why}", seconds)

    def stray(self, raw: bytes) -> None:
        """Note a message that answers nothing."""
        self._exchanges.append((next(self._numbers), f"<- dropped, it answers nothing: {_cut(raw)}"))

    def event(self, event: Event) -> None:
        """Note an event. It is turned into text only when somebody reads."""
        self._events.append((next(self._numbers), event))

    def lines(self) -> list[str]:
        """Return everything kept, one line each, oldest first."""
        events = ((number, _event_line(event)) for number, event in self._events.copy())
        return [text for _, text in heapq.merge(self._exchanges.copy(), events)]

    def _outcome(self, call_id: str, command: str, text: str, seconds: float) -> None:
        # Named only where another command was sent in between.
        name = "" if call_id == self._last_call else f"({command}) "
        self._exchanges.append((next(self._numbers), f"<- {name}{text} {seconds * 1000:.1f} ms"))


def _reply_text(raw: bytes, call_id: str) -> str:
    """Return a reply without what every reply has."""
    text = raw.strip()
    if text.startswith(b'{"return": ') and text.endswith(tail := f', "id": "{call_id}"}}'.encode()):
        text = text[len(b'{"return": ') : -len(tail)]
    return _cut(text)


def _cut(raw: bytes) -> str:
    head = raw[:LENGTH].decode(errors="replace").strip()
    return head if len(raw) <= LENGTH else f"{head}... ({len(raw)} bytes)"


def _event_line(event: Event) -> str:
    data = f" {shorten(json.dumps(event.data))}" if event.data else ""
    return f"!! event {event.name}{data}"
