"""Services of the host's that guests of a network may use: the book of them, and the handle of one."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Self

from pytest_qemuvm.errors import AddressInUse, QemuVMError, SpecError

if TYPE_CHECKING:
    from pytest_qemuvm.host.switch.exchange import Exchange
    from pytest_qemuvm.host.switch.reactor import Reactor
    from pytest_qemuvm.spec.services import Offer, Protocol


class Desk:
    """One service: where it leads, and how often it was used. For the reactor's thread."""

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.connections = 0
        self._kind = socket.SOCK_STREAM if offer.protocol == "tcp" else socket.SOCK_DGRAM
        self._family, self._address = _resolved(offer, self._kind)

    def connect(self) -> tuple[socket.socket, int]:
        """Return a socket that is being connected, and the number of the error that it has met; 0: it is."""
        sock = socket.socket(self._family, self._kind)
        try:
            sock.setblocking(False)
            if self._family != socket.AF_UNIX and self._kind == socket.SOCK_STREAM:
                # What a guest has sent has waited long enough.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock, sock.connect_ex(self._address)
        except BaseException:
            sock.close()
            raise


class Services:
    """The services of one network. What its stations are asked for, they look up here."""

    def __init__(self, reactor: Reactor, ip: str) -> None:
        self.ip = ip
        self.exchanges: list[Exchange] = []
        """Those of the stations that offer them. For the reactor's thread."""
        self.closed = False
        self._reactor = reactor
        self._desks: dict[tuple[Protocol, int], Desk] = {}

    def __bool__(self) -> bool:
        return bool(self._desks)

    def find(self, protocol: Protocol, port: int) -> Desk | None:
        """Return what is served at a port. On the thread."""
        return self._desks.get((protocol, port))

    def serve(self, offer: Offer) -> Service:
        """Have guests reach it from now on. Raises AddressInUse, SpecError for a host that is not known."""
        desk = Desk(offer)

        def add() -> None:
            if self.closed:
                raise QemuVMError(f"{offer}: the network is closed")
            other = self._desks.setdefault((offer.protocol, offer.port), desk)
            if other is not desk:
                raise AddressInUse(
                    f"{offer} of {self.ip} is served already",
                    f"it leads to {other.offer.to}",
                    "close that one first",
                    holder=str(other.offer.to),
                )

        self._reactor.call(add)
        return Service(self, desk)

    def withdraw(self, desk: Desk) -> None:
        """Have nobody reach it any more, and end what uses it. Idempotent."""

        def end() -> None:
            key = desk.offer.protocol, desk.offer.port
            if self._desks.get(key) is desk:
                del self._desks[key]
            for exchange in self.exchanges:
                exchange.withdraw(desk)

        self._reactor.undo(end)

    def close(self) -> None:
        """Withdraw all. Idempotent."""
        self.closed = True
        for desk in tuple(self._desks.values()):
            self.withdraw(desk)


class Service:
    """A port at which guests reach a service of the host's, as ``network.serve`` gives it."""

    def __init__(self, services: Services, desk: Desk) -> None:
        self._services = services
        self._desk = desk
        self.closed = False
        """Whether ``close`` was called; it ends with its network, too."""

    def __repr__(self) -> str:
        return (
            f"<Service {self.protocol} {self.ip}:{self.port} to {self.to}{' closed' if self.closed else ''}>"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def ip(self) -> str:
        """The address at which guests reach it."""
        return self._services.ip

    @property
    def port(self) -> int:
        """The port there."""
        return self._desk.offer.port

    @property
    def protocol(self) -> Protocol:
        """``tcp`` or ``udp``."""
        return self._desk.offer.protocol

    @property
    def to(self) -> tuple[str, int] | str:
        """What it leads to: a host and its port, or the path of a unix socket."""
        return self._desk.offer.to

    @property
    def connections(self) -> int:
        """How many connections have been made so far; with UDP, from how many ports it was used."""
        return self._desk.connections

    def close(self) -> None:
        """End it; connections that are open are reset. Idempotent."""
        if not self.closed:
            self.closed = True
            self._services.withdraw(self._desk)


def _resolved(offer: Offer, kind: socket.SocketKind) -> tuple[int, Any]:
    """Return the family and the address to connect to. Raises SpecError for a host that is not known."""
    if isinstance(offer.to, str):
        return socket.AF_UNIX, offer.to
    host, port = offer.to
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=kind)[0]
    except (OSError, UnicodeError) as error:
        raise SpecError(f"to={offer.to!r}: the host {host!r} is not known", str(error)) from error
    return family, address
