"""Character devices: a socket that is connected or that listens, a file, or nothing."""

from __future__ import annotations

import os
import select
from _socket import AF_UNIX, CMSG_SPACE, MSG_DONTWAIT, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.loop import Loop

_CHUNK = 1 << 16
_MOST_DESCRIPTORS = 16


class FrontEnd:
    """Who uses a character device: a monitor, the qtest port, a port of the guest's."""

    def opened(self) -> None:
        """Take note that there is somebody at the other end."""

    def received(self, data: bytes) -> None:
        """Take in what the other end sent."""

    def closed(self) -> None:
        """Take note that the other end has gone."""


class Chardev:
    """What all kinds have in common; this one is a null device."""

    kind = "chardev-null"
    filename = "null"
    user: FrontEnd | None = None
    frontend_open = False

    def __init__(self, name: str, logfile: str | None = None, *, append: bool = False) -> None:
        self.name = name
        self._log = -1
        if logfile is not None:
            how = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
            self._log = os.open(logfile, how, 0o666)

    def attach(self, user: FrontEnd) -> None:
        """Have ``user`` told of what comes."""
        self.user = user
        self.frontend_open = True

    def detach(self) -> None:
        """Have nobody told any more."""
        self.user = None
        self.frontend_open = False

    def send(self, data: bytes) -> None:
        """Send to whoever is at the other end."""

    def take_descriptor(self) -> int:
        """Return the oldest descriptor that was sent along, or -1."""
        return -1

    def hang_up(self) -> None:
        """Close the connection; a listener goes on listening."""

    def close(self) -> None:
        """Give everything back."""
        if self._log >= 0:
            os.close(self._log)
            self._log = -1


class FileChardev(Chardev):
    """Writes to a file."""

    kind = "chardev-file"

    def __init__(self, name: str, path: str, **log: Any) -> None:
        super().__init__(name, **log)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        self.filename = "file"

    def send(self, data: bytes) -> None:  # noqa: D102
        os.write(self._fd, data)

    def close(self) -> None:  # noqa: D102
        super().close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SocketChardev(Chardev):
    """A stream socket: connected from the start, or listening for one client after the other."""

    kind = "chardev-socket"

    def __init__(self, name: str, loop: Loop, end: socket, *, path: str = "", **log: Any) -> None:
        super().__init__(name, **log)
        self._loop = loop
        self._listener: socket | None = None
        self._connection: socket | None = None
        self._path = path
        self._out: list[bytes] = []
        self._descriptors: list[int] = []
        self._pause: float = 0
        self.listens = _listens(end)
        self.filename = f"disconnected:unix:{path},server=on" if self.listens else "unix:"
        if self.listens:
            self._listener = end
        else:
            self._connection = end

    def start(self) -> None:
        """Begin to accept, or to read."""
        if self._listener is not None:
            self._loop.watch(self._listener.fileno(), self._accept)
        elif self._connection is not None:
            self._connected(self._connection)

    def attach(self, user: FrontEnd) -> None:  # noqa: D102
        super().attach(user)
        if self._connection is not None:
            user.opened()
            self._watch()

    def detach(self) -> None:  # noqa: D102
        super().detach()
        if self._connection is not None:
            # What comes from now on stays in the socket, for whoever uses the device next.
            self._loop.forget(self._connection.fileno())

    def _accept(self, _events: int) -> None:
        assert self._listener is not None
        fd, _address = self._listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001
        self._loop.forget(self._listener.fileno())
        self._connected(socket(AF_UNIX, SOCK_STREAM, 0, fd))

    def _connected(self, connection: socket) -> None:
        self._connection = connection
        connection.setblocking(False)
        if self.listens:
            self.filename = f"unix:{self._path},server=on"
        if self.user is not None:
            self.user.opened()
        self._watch()

    def _watch(self) -> None:
        if self._connection is None:
            return
        wanted = (select.POLLIN if self.user is not None else 0) | (select.POLLOUT if self._out else 0)
        if wanted:
            self._loop.watch(self._connection.fileno(), self._ready, wanted)
        else:
            self._loop.forget(self._connection.fileno())

    def _ready(self, events: int) -> None:
        if events & select.POLLOUT:
            self._flush()
        if events & ~select.POLLOUT and self._connection is not None:
            self._read()

    def _read(self) -> None:
        assert self._connection is not None
        space = CMSG_SPACE(4 * _MOST_DESCRIPTORS)
        try:
            data, ancillary, _flags, _address = self._connection.recvmsg(_CHUNK, space, MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        for level, kind, packed in ancillary:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                self._take_in(packed)
        if data:
            if self.user is not None:
                self.user.received(data)
        else:
            self.hang_up()

    def _take_in(self, packed: bytes) -> None:
        """Keep descriptors that came along; what nobody took of an earlier packet is closed, as QEMU does."""
        for fd in self._descriptors:
            os.close(fd)
        count = len(packed) // 4
        self._descriptors = [int.from_bytes(packed[4 * n : 4 * n + 4], "little") for n in range(count)]

    def take_descriptor(self) -> int:  # noqa: D102
        return self._descriptors.pop(0) if self._descriptors else -1

    def send(self, data: bytes) -> None:  # noqa: D102
        if self._connection is not None:
            self._out.append(data)
            self._flush()

    def _flush(self) -> None:
        connection = self._connection
        try:
            while self._out and connection is not None:
                sent = connection.send(self._out[0], MSG_DONTWAIT)
                if sent < len(self._out[0]):
                    self._out[0] = self._out[0][sent:]
                    break
                del self._out[0]
        except BlockingIOError:
            pass
        except OSError:
            self._out = []
        self._watch()

    def hang_up(self) -> None:  # noqa: D102
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._loop.forget(connection.fileno())
        connection.close()
        self._out = []
        if self.listens and self._listener is not None:
            self.filename = f"disconnected:unix:{self._path},server=on"
            self._loop.watch(self._listener.fileno(), self._accept)
        if self.user is not None:
            self.user.closed()

    def drain(self) -> None:
        """Send what is left to be sent, waiting for the other end: the process is about to end."""
        if self._connection is not None and self._out:
            self._connection.settimeout(1.0)
            try:
                self._connection.sendall(b"".join(self._out))
            except OSError:
                pass
            self._out = []

    def close(self) -> None:  # noqa: D102
        self.user = None
        self.drain()
        listener, self._listener = self._listener, None
        self.hang_up()
        if listener is not None:
            self._loop.forget(listener.fileno())
            listener.close()
            if self._path:
                try:
                    os.unlink(self._path)
                except OSError:
                    pass
        super().close()


def _listens(end: socket) -> bool:
    return bool(end.getsockopt(SOL_SOCKET, 30))  # SO_ACCEPTCONN
