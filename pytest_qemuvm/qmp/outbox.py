"""What is to be sent over a socket, bytes and descriptors, and how much of it has been."""

from __future__ import annotations

import array
import os
import select
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Ancillary = list[tuple[int, int, "bytes | array.array[int]"]]

_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Descriptors:
    """Duplicates of descriptors on their way to the peer; the caller may close the originals.

    Raises OSError where one is not open.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        # An epoll object closes what it holds when it goes, without a word and without a step of Python's in
        # which Ctrl-C could be lost; nothing else of the standard library does. None of them ever polls. And
        # one call into C duplicates and notes.
        self._held: list[select.epoll] = []
        self._held.extend(map(select.epoll.fromfd, map(os.dup, numbers)))

    def ancillary(self) -> Ancillary:
        """Return what ``sendmsg`` takes for them."""
        numbers = array.array("i", [held.fileno() for held in self._held])
        return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]

    def close(self) -> None:
        """Close the duplicates: the peer has its own, or will never get them. Idempotent."""
        self._held.clear()


_Parcel = tuple[bytes, Descriptors | None]
"""What goes out in one piece if the socket takes it; descriptors travel with its first byte."""


class Outbox:
    """What is to be sent over a socket, and how much of it has been: true after an interruption anywhere.

    Ctrl-C raises KeyboardInterrupt between any two steps of the main thread. Were a send and the note of it
    two steps, the next command would send the same bytes again, or wait for ever behind bytes long gone.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # The parcels, and how many bytes of the first went with each send. Replaced as one, never changed in
        # part.
        self._state: tuple[tuple[_Parcel, ...], list[int]] = ((), [])

    @property
    def unsent(self) -> bytes:
        """What the socket has not taken yet."""
        return b"".join(data for data, _ in self._rest())

    def send(self, data: bytes = b"", descriptors: Descriptors | None = None) -> None:
        """Add the data, and send what the socket takes without waiting; once it is broken, all is dropped.

        Descriptors go in the same step as the data's first byte, which nothing precedes in that step: the
        peer gets them with the data and with no other.
        """
        parcels = self._rest()
        if descriptors is None and parcels and data:
            # Many small ones are sent by one call. What travels with descriptors may well be followed.
            *earlier, (last, theirs) = parcels
            parcels = (*earlier, (last + data, theirs))
        elif data:
            parcels = (*parcels, (data, descriptors))
        while True:
            counts: list[int] = []
            self._state = (parcels, counts)
            if not parcels:
                return
            whole, passed = parcels[0]
            ancillary = passed.ancillary() if passed is not None else []
            try:
                # One call into C both sends and notes the count: no signal handler runs in between.
                counts.extend(map(self._sock.sendmsg, ((whole,),), (ancillary,), (_FLAGS,)))
            except BlockingIOError:
                return
            except OSError:
                # The peer is gone, and whoever reads is about to find its last words and then the end.
                self.clear()
                return
            if passed is not None:
                passed.close()
            parcels = self._rest()

    def clear(self) -> None:
        """Drop what is left."""
        parcels, _ = self._state
        self._state = ((), [])
        for _, passed in parcels:
            if passed is not None:
                passed.close()

    def _rest(self) -> tuple[_Parcel, ...]:
        parcels, counts = self._state
        sent = sum(counts)
        if not sent:
            return parcels
        (data, _), *others = parcels
        return ((data[sent:], None), *others) if sent < len(data) else tuple(others)
