"""What a network offers its guests of the host's. Pure."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, cast

from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.spec.devices import one_of

Protocol = Literal["tcp", "udp"]
Target = tuple[str, int] | int | str | os.PathLike[str]
"""A host and its port, a port of 127.0.0.1, or the path of a unix socket."""
HOST_NAME = "host"
"""The name under which guests find the host, with the network's domain and without."""
_LOOPBACK = "127.0.0.1"
_LAST_PORT = 65535
_LONGEST_PATH = 107
_HINT = 'write to=("127.0.0.1", 8080), to=8080, or the path of a unix socket'


@dataclass(frozen=True, slots=True)
class Offer:
    """A port of a network's own address, and what is behind it on the host."""

    port: int
    protocol: Protocol
    to: tuple[str, int] | str
    """A host and its port, or a path."""

    def __str__(self) -> str:
        return f"{self.protocol} port {self.port}"


def checked_offer(port: object, to: object, protocol: object) -> Offer:
    """Return what was asked for. Raises SpecError for what cannot be."""
    number = _port(port, "port")
    one_of(protocol, Protocol, "protocol of a service")
    which = cast("Protocol", protocol)
    if isinstance(to, (str, os.PathLike)):
        path = os.fsdecode(to)
        if which != "tcp":
            raise SpecError(f"to={path!r} is a path, and a unix socket is for protocol='tcp'", hint=_HINT)
        if not 0 < len(os.fsencode(path)) <= _LONGEST_PATH or "\0" in path:
            raise SpecError(f"to={path!r} is no path that a unix socket can have", hint=_HINT)
        return Offer(number, which, path)
    if isinstance(to, int):
        to = (_LOOPBACK, to)
    # The address of an IPv6 socket has four parts.
    if not isinstance(to, tuple) or len(to) not in (2, 4) or not isinstance(to[0], str) or not to[0]:
        raise SpecError(f"to={to!r} is nothing to connect to", hint=_HINT)
    return Offer(number, which, (to[0], _port(to[1], "port in to=")))


def _port(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LAST_PORT:
        raise SpecError(f"{what}: {value!r} is not a number from 1 to {_LAST_PORT}")
    return value
