"""Unix sockets with a path: made where nobody else can come, and reached from other processes."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import ConnectError, MonitorBusy, PathTooLong
from pytest_qemuvm.host.paths import check_private

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_qemuvm.host.deadline import Deadline

LONGEST_PATH = 107
"""Bytes of a unix socket's path; the kernel's structure has one more, for the end."""
_QUEUE = 16
"""How many clients may wait for one that is connected; more are refused at once."""
_CONNECTED, _WAITING = b"03", b"02"
"""A socket's state in /proc/net/unix: it was accepted; it still waits for that."""


def listen(path: Path) -> socket.socket:
    """Return a socket that listens under that path; whoever makes it removes the path.

    Raises PathTooLong, UnsafeDirectory where others could get at it, and OSError.
    """
    _check(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        path.unlink(missing_ok=True)
        listener.bind(os.fspath(path))
        listener.listen(_QUEUE)
    except BaseException:
        listener.close()
        raise
    return listener


def dial(path: Path, deadline: Deadline) -> socket.socket:
    """Return a socket that is connected to the listener under that path.

    Raises PathTooLong, UnsafeDirectory, ConnectError where nobody listens, and MonitorBusy where more clients
    wait already than can.
    """
    _check(path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        # Not settimeout(): with that, connect() does not wait for a place in a queue that is full.
        _set_patience(sock, max(deadline.remaining, 0.001))
        sock.connect(os.fspath(path))
        _set_patience(sock, 0)  # for ever
    except BlockingIOError as error:
        sock.close()
        raise MonitorBusy(f"too many clients wait for {path}", path=path) from error
    except OSError as error:
        sock.close()
        raise ConnectError(f"nobody listens on {path}", str(error), "has the VM ended?") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _set_patience(sock: socket.socket, seconds: float) -> None:
    """Have the kernel wait no longer than that when it connects or sends."""
    whole = int(seconds)
    sock.setsockopt(
        socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", whole, int((seconds - whole) * 1e6))
    )


def is_taken(path: Path) -> bool:
    """Return whether the listener under that path serves a client while another one waits for its turn."""
    with open("/proc/net/unix", "rb") as file:  # noqa: PTH123  # lines of bytes: a path may be anything
        lines = [line.split(None, 7) for line in file]
    wanted = os.fsencode(path)
    states = {line[5] for line in lines if len(line) == 8 and line[7].rstrip(b"\n") == wanted}
    return {_CONNECTED, _WAITING} <= states


def _check(path: Path) -> None:
    size = len(os.fsencode(path))
    if size > LONGEST_PATH:
        raise PathTooLong(
            f"{path} is too long for a socket: {size} bytes, {LONGEST_PATH} are possible",
            hint="set TMPDIR to a shorter directory",
            path=path,
        )
    check_private(path.parent)
