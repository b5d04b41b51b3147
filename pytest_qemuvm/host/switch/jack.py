"""The switch's end of one line to a machine: a socket that may come and go, and a bounded queue before it."""

from __future__ import annotations

import errno
import socket
from collections import Counter, deque
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_qemuvm.host.switch.reactor import READABLE, WRITABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_qemuvm.host.switch.fabric import Fabric
    from pytest_qemuvm.host.switch.pcap import Writer

LONGEST = 4096 + 65536
"""Bytes of the longest frame that QEMU sends or takes."""
SHORTEST = 14
"""Bytes of an Ethernet header."""
QUEUED_FRAMES = 1000
QUEUED_BYTES = 4 << 20
"""What may wait for a machine that does not read; the kernel holds some 200 KiB more."""
_GONE = (errno.ENOTCONN, errno.EPIPE)
_BATCH = 64
"""Frames of one line in a row, before others have their turn."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What has passed a port so far. ``received`` is from its machine, ``sent`` was given to it."""

    received: int
    received_bytes: int
    sent: int
    sent_bytes: int
    waiting: int
    """Frames that wait for the machine to read."""
    dropped: Mapping[str, int]
    """Frames for the machine that did not get there, or from it that went nowhere, by reason.

    ``full``: it did not read; ``absent``: there is no QEMU; ``rule``: somebody wanted it so; ``runt`` and
    ``oversize``: these are no frames; ``error``: the host's kernel did not take it.
    """


class Jack:
    """One line of a fabric. Everything here runs on the reactor's thread."""

    def __init__(self, fabric: Fabric, label: str) -> None:
        self.fabric = fabric
        self.label = label
        self.flows: dict[bytes, Jack] = {}
        """Where frames go that begin with these twelve bytes, as long as the segment stays as it is."""
        self.captures: list[Writer] = []
        self.no_router: bytes | None = None
        """The MAC address by which the machine is told, when it asks, that there is no IPv6 router; None: it
        is told nothing."""
        self._socket: socket.socket | None = None
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._received = self._received_bytes = self._sent = self._sent_bytes = 0
        self._dropped: Counter[str] = Counter()

    def renew(self) -> socket.socket:
        """Make a new pair, end the old one with what waits in it, and return the machine's end."""
        self.unplug()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            ours.setblocking(False)
            self.fabric.reactor.watch(ours.fileno(), self._ready)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        self._socket = ours
        return theirs

    def take_over(self, other: Jack) -> None:
        """Have what is at the end of another line on this one, which that one has no more."""
        sock = other._let_go()  # of the same class
        if sock is not None:
            self.unplug()
            self._socket = sock
            self.fabric.reactor.watch(sock.fileno(), self._ready)

    def unplug(self) -> None:
        """Close our end, if there is one; frames for the machine are dropped from now on."""
        sock = self._let_go()
        if sock is not None:
            sock.close()

    def _let_go(self) -> socket.socket | None:
        """Have no socket any more, and drop what waited to be sent on it; return it if there was one."""
        sock, self._socket = self._socket, None
        if sock is not None:
            self.fabric.reactor.forget(sock.fileno())
            self.fabric.lost(self)
            self.drop("absent", len(self._queue))
            self._queue.clear()
            self._queued = 0
        return sock

    def counters(self) -> Counters:
        """Return what has passed so far."""
        dropped = MappingProxyType(dict(self._dropped))
        received, sent = (self._received, self._received_bytes), (self._sent, self._sent_bytes)
        return Counters(*received, *sent, len(self._queue), dropped)

    def drop(self, reason: str, frames: int = 1) -> None:
        """Count frames that go no further."""
        if frames:
            self._dropped[reason] += frames

    def transmit(self, frame: bytes) -> None:
        """Give a frame to the machine, now or when it reads again; never wait for it."""
        if self._queue:
            self._enqueue(frame)
            return
        sock = self._socket
        if sock is None:
            self.drop("absent")
            return
        try:
            sock.send(frame)
        except BlockingIOError:
            self.fabric.reactor.wait_for(sock.fileno(), READABLE | WRITABLE)
            self._enqueue(frame)
        except OSError as error:
            self._refused(error)
        else:
            self._delivered(frame)

    def _enqueue(self, frame: bytes) -> None:
        if len(self._queue) >= QUEUED_FRAMES or self._queued + len(frame) > QUEUED_BYTES:
            self.drop("full")
        else:
            self._queue.append(frame)
            self._queued += len(frame)

    def _delivered(self, frame: bytes) -> None:
        self._sent += 1
        self._sent_bytes += len(frame)
        for capture in self.captures:
            capture.write(frame)

    def _refused(self, error: OSError) -> None:
        """Note that a frame was not taken; a socket whose other end is closed is of no more use."""
        if isinstance(error, ConnectionError) or error.errno in _GONE:
            self.drop("absent")
            self.unplug()
        else:
            self.drop("error")

    def _ready(self, events: int) -> None:
        if events & WRITABLE:
            self._flush()
        if events & ~WRITABLE:
            self._receive()

    def _flush(self) -> None:
        queue = self._queue
        while queue and self._socket is not None:
            frame = queue[0]
            try:
                self._socket.send(frame)
            except BlockingIOError:
                return
            except OSError as error:
                queue.popleft()
                self._queued -= len(frame)
                self._refused(error)
                continue
            queue.popleft()
            self._queued -= len(frame)
            self._delivered(frame)
        if self._socket is not None:
            self.fabric.reactor.wait_for(self._socket.fileno(), READABLE)

    def _receive(self) -> None:
        enter = self.fabric.enter
        for _ in range(_BATCH):
            sock = self._socket
            if sock is None:
                return
            try:
                # One byte more than a frame can have shows those that have more.
                frame = sock.recv(LONGEST + 1)
            except BlockingIOError:
                return
            except OSError:
                self.unplug()
                return
            size = len(frame)
            self._received += 1
            self._received_bytes += size
            if SHORTEST <= size <= LONGEST:
                for capture in self.captures:
                    capture.write(frame)
                enter(self, frame)
            else:
                self.drop("runt" if size < SHORTEST else "oversize")
