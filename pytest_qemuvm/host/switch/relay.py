"""Between a guest's TCP connection and a socket of the host's: what comes from the one goes to the other.

Both are asked for no more than the other takes, so what waits here is bounded.
"""

from __future__ import annotations

import math
import socket
import struct
from typing import TYPE_CHECKING

from pytest_qemuvm.host.switch.reactor import READABLE, WRITABLE
from pytest_qemuvm.host.switch.tcp_sender import LIMIT

if TYPE_CHECKING:
    from pytest_qemuvm.host.switch.exchange import Exchange, Key
    from pytest_qemuvm.host.switch.services import Desk
    from pytest_qemuvm.host.switch.tcp_connection import Connection

_PIECE = 64 << 10
"""Bytes that are read from a socket at once."""
_WORTH_READING = LIMIT // 4
"""Bytes of room from which on the host's socket is read."""
_AT_ONCE = struct.pack("ii", 1, 0)
_NEVER = math.inf


class Relay:
    """One connection of a guest's to one service. Everything here runs on the reactor's thread."""

    def __init__(
        self,
        exchange: Exchange,
        key: Key,
        mac: bytes,
        desk: Desk,
        connection: Connection,
        sock: socket.socket,
    ) -> None:
        self.key = key
        self.mac = mac
        """Who is at the other end."""
        self.desk = desk
        self.connection = connection
        self._exchange = exchange
        self._reactor = exchange.reactor
        self._socket: socket.socket | None = sock
        self._interest = 0
        self._has_shut = False
        """Whether the host's end was told that no more comes."""
        self._armed = _NEVER

    @property
    def is_over(self) -> bool:
        """Whether nobody needs it any more."""
        return self._socket is None and self.connection.phase == "closed"

    @property
    def is_idle(self) -> bool:
        """Whether at most the other end's last words are waited for."""
        return self.connection.broken or (self._socket is None and self.connection.is_over)

    def connected(self, now: float) -> None:
        """Note that the host's end is there, and let the guest begin."""
        self.desk.connections += 1
        self.connection.accept(now)

    def turn(self, now: float) -> None:
        """Do what is to be done after something has happened to the connection."""
        if not self.connection.broken:
            self._to_host()
        if self.connection.broken:
            self._drop()
        for segment in self.connection.output(now):
            self._exchange.send(self, segment)
        self._watch()
        due = self.connection.due
        if due is not None and due < self._armed:
            self._armed = due
            self._reactor.at(due, self._tick)

    def abandon(self) -> None:
        """End it, and tell the host's end, not the guest's."""
        self.connection.abort()
        self._drop()

    def _tick(self) -> None:
        self._armed = _NEVER
        if not self.is_over:
            now = self._exchange.now()
            self.connection.tick(now)
            self._exchange.touch(self)

    def _ready(self, events: int) -> None:
        connection = self.connection
        if connection.phase == "opening":
            if events & ~READABLE and self._socket is not None:
                self._settle(self._socket)
        elif events & ~WRITABLE:
            self._from_host()
        self._exchange.touch(self)

    def _settle(self, sock: socket.socket) -> None:
        """Find out what has become of connecting to the host's end."""
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.connection.abort()
            return
        try:
            sock.getpeername()
        except OSError:
            return  # what was ready is another socket, which had the same number before
        self.connected(self._exchange.now())

    def _from_host(self) -> None:
        sender = self.connection.sender
        if self._socket is None or sender.finishing or sender.room < _WORTH_READING:
            return
        try:
            data = self._socket.recv(min(sender.room, _PIECE))
        except BlockingIOError:
            return
        except OSError:
            self.connection.abort()
            return
        if data:
            self.connection.give(data)
        else:
            self.connection.finish()

    def _to_host(self) -> None:
        receiver, sock = self.connection.receiver, self._socket
        try:
            while receiver.ready and sock is not None:
                with memoryview(receiver.ready) as ready:
                    count = sock.send(ready)
                self.connection.taken(count)
            if receiver.ended and not self._has_shut and sock is not None:
                self._has_shut = True
                sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            self.connection.abort()
            return
        if self.connection.is_over:
            self._close()

    def _watch(self) -> None:
        """Wait for what the host's end can be asked for now; epoll would say the rest again and again."""
        sock, connection = self._socket, self.connection
        if sock is None:
            return
        if connection.phase == "opening":
            wanted = WRITABLE
        else:
            reads = not connection.sender.finishing and connection.sender.room >= _WORTH_READING
            wanted = (READABLE if reads else 0) | (WRITABLE if connection.receiver.ready else 0)
        if wanted == self._interest:
            return
        if not wanted:
            self._reactor.forget(sock.fileno())
        else:
            if not self._interest:
                self._reactor.watch(sock.fileno(), self._ready)
            self._reactor.wait_for(sock.fileno(), wanted)
        self._interest = wanted

    def _drop(self) -> None:
        """Close the host's end so that it knows that not everything has come."""
        if self._socket is not None and self._socket.family != socket.AF_UNIX:
            # Closed at once, it sends a reset.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._close()

    def _close(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            if self._interest:
                self._reactor.forget(sock.fileno())
            sock.close()
