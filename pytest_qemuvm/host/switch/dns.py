"""DNS messages (RFC 1035), as far as names on a segment need them. Pure."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

PORT = 53
A, PTR, ANY = 1, 12, 255
"""Kinds of records; the others nobody has here."""
NO_ERROR, FORMAT_ERROR, NO_SUCH_NAME, NOT_IMPLEMENTED, REFUSED = 0, 1, 3, 4, 5
LIFE = 1
"""Seconds that an answer holds: machines come and go."""

_HEAD = struct.Struct("!HHHHHH")
_ANSWER, _AUTHORITATIVE, _ASKED_FOR_MORE, _AVAILABLE = 0x8000, 0x0400, 0x0100, 0x0080
_INTERNET, _ANY_CLASS = 1, 255
_LONGEST_NAME = 255
_LONGEST = 512
"""Bytes of an answer that everybody takes."""

Name = tuple[bytes, ...]
"""The labels of a name, in lower case."""


class Query(NamedTuple):
    """A question; ``problem`` is why it cannot be answered, or NO_ERROR."""

    number: int
    flags: int
    problem: int
    name: Name = ()
    kind: int = 0
    question: bytes = b""
    """As it was asked: in the asker's letters."""


def query(data: bytes) -> Query | None:
    """Read a question; None for what gets no answer at all."""
    if len(data) < _HEAD.size:
        return None
    number, flags, questions, *_ = _HEAD.unpack_from(data)
    if flags & _ANSWER:
        return None
    if flags >> 11 & 15:
        return Query(number, flags, NOT_IMPLEMENTED)
    labels: list[bytes] = []
    place = _HEAD.size
    while place < len(data) and 0 < data[place] < 64:
        labels.append(data[place + 1 : place + 1 + data[place]].lower())
        place += 1 + data[place]
    end = place + 5
    if questions != 1 or end > len(data) or data[place] or place + 1 - _HEAD.size > _LONGEST_NAME:
        return Query(number, flags, FORMAT_ERROR)
    kind, kind_of_net = struct.unpack_from("!HH", data, place + 1)
    problem = NO_ERROR if kind_of_net in (_INTERNET, _ANY_CLASS) else REFUSED
    return Query(number, flags, problem, tuple(labels), kind, data[_HEAD.size : end])


def reply(asked: Query, code: int, kind: int = A, records: Sequence[bytes] = ()) -> bytes:
    """Return the answer to a question: a code, and records of one kind for the name that was asked for."""
    # Nothing lies beyond the segment, so asking further is done as soon as it is asked for.
    flags = _ANSWER | _AUTHORITATIVE | _AVAILABLE | asked.flags & (0x7800 | _ASKED_FOR_MORE) | code
    answers, room = [], _LONGEST - _HEAD.size - len(asked.question)
    for data in records:
        answer = struct.pack("!HHHIH", 0xC000 | _HEAD.size, kind, _INTERNET, LIFE, len(data)) + data
        room -= len(answer)
        if room < 0:
            break
        answers.append(answer)
    head = _HEAD.pack(asked.number, flags, 1 if asked.question else 0, len(answers), 0, 0)
    return head + asked.question + b"".join(answers)


def name(text: str) -> Name:
    """Return a name that people write as questions have it."""
    return tuple(label.encode() for label in text.lower().split("."))


def encoded(labels: Name) -> bytes:
    """Return a name as answers have it."""
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def reverse(address: bytes) -> Name:
    """Return the name that is asked for to learn the name of an IPv4 address."""
    return (*(b"%d" % byte for byte in reversed(address)), b"in-addr", b"arpa")
