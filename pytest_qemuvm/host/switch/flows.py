"""UDP between guests and services: a socket of the host's for each port of a guest's that has asked."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, NamedTuple

from pytest_qemuvm.host.switch.frames import Datagram

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection

    from pytest_qemuvm.host.switch.reactor import Reactor
    from pytest_qemuvm.host.switch.services import Desk, Services

MOST = 512
"""Ports of guests' at one time; one more takes the place of the one that was silent for longest."""
IDLE = 60.0
"""Seconds of silence after which an answer is for nobody any more."""
LONGEST = 1472
"""Bytes of the longest datagram that is whole in a frame of 1,514."""
_BATCH = 16


class _Key(NamedTuple):
    mac: bytes
    ip: bytes
    port: int
    service: int


class _Flow(NamedTuple):
    desk: Desk
    socket: socket.socket


class Flows:
    """What datagrams of guests' have to do with each other. Everything here runs on the reactor's thread."""

    def __init__(
        self, reactor: Reactor, services: Services, answer: Callable[[bytes, bytes, Datagram], object]
    ) -> None:
        self._reactor = reactor
        self._services = services
        self._answer = answer
        self._flows: dict[_Key, _Flow] = {}
        """The one that was silent for longest is the first."""
        self._used: dict[_Key, float] = {}
        self._armed = False

    def hear(self, mac: bytes, ip: bytes, datagram: Datagram) -> None:
        """Hand a datagram of a guest's on."""
        key = _Key(mac, ip, datagram.source, datagram.target)
        flow = self._flows.get(key) or self._begin(key)
        if flow is None:
            return
        self._use(key, flow)
        try:
            flow.socket.send(datagram.payload)
        except OSError:
            return  # nobody is there, or too much waits: datagrams get lost

    def lost(self, macs: Collection[bytes]) -> None:
        """Forget machines that have gone."""
        self._end([key for key in self._flows if key.mac in macs])

    def withdraw(self, desk: Desk) -> None:
        """Forget a service."""
        self._end([key for key, flow in self._flows.items() if flow.desk is desk])

    def close(self) -> None:
        """End everything."""
        self._end(list(self._flows))

    def _begin(self, key: _Key) -> _Flow | None:
        desk = self._services.find("udp", key.service)
        if desk is None:
            return None
        if len(self._flows) >= MOST:
            self._end([next(iter(self._flows))])
        try:
            sock, problem = desk.connect()
        except OSError:
            return None
        if problem:
            sock.close()
            return None
        desk.connections += 1
        self._reactor.watch(sock.fileno(), lambda _events: self._ready(key))
        return _Flow(desk, sock)

    def _use(self, key: _Key, flow: _Flow) -> None:
        self._flows.pop(key, None)
        self._flows[key] = flow
        self._used[key] = time.monotonic()
        if not self._armed:
            self._armed = True
            self._reactor.at(self._used[key] + IDLE, self._expire)

    def _ready(self, key: _Key) -> None:
        flow = self._flows.get(key)
        if flow is None:
            return
        for _ in range(_BATCH):
            try:
                payload = flow.socket.recv(LONGEST + 1)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ECONNREFUSED:
                    self._end([key])
                    return
                continue  # nobody was there when the guest asked; somebody may be the next time
            self._use(key, flow)
            if len(payload) <= LONGEST:
                self._answer(key.mac, key.ip, Datagram(key.service, key.port, payload))

    def _expire(self) -> None:
        self._armed = False
        now = time.monotonic()
        self._end([key for key, used in self._used.items() if used + IDLE <= now])
        if self._flows:
            self._armed = True
            self._reactor.at(self._used[next(iter(self._flows))] + IDLE, self._expire)

    def _end(self, keys: Collection[_Key]) -> None:
        for key in keys:
            flow = self._flows.pop(key)
            del self._used[key]
            self._reactor.forget(flow.socket.fileno())
            flow.socket.close()
