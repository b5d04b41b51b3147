"""Services of the host's, as guests reach them: real guests, real servers."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_qemuvm.machine.networks.network import Network
    from pytest_qemuvm.plugin.fixtures import NetworkFactory, VMFactory

GUEST = pytest.mark.qemuvm(needs="guest")
PATIENCE = 30.0
"""Seconds after which what should have come will not come."""
Serve = "Callable[[socket.socket], object]"


class Server:
    """Something that listens on the host, and has each connection handled on a thread of its own."""

    def __init__(self, handle: Callable[[socket.socket], object], path: Path | None = None) -> None:
        self._handle = handle
        self._stack = ExitStack()
        self.ends: list[str] = []
        """How connections ended: ``""``, or the name of an error."""
        self.ended = threading.Semaphore(0)
        if path is None:
            self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.bind(str(path))
            self.socket.listen(64)
        self.to = self.socket.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        end = ""
        with connection:
            connection.settimeout(PATIENCE)
            try:
                self._handle(connection)
            except OSError as error:
                end = type(error).__name__
        self.ends.append(end)
        self.ended.release()

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def everything(connection: socket.socket) -> bytes:
    found = bytearray()
    while data := connection.recv(1 << 16):
        found += data
    return bytes(found)


def digest(connection: socket.socket) -> None:
    """Answer with the digest of all that comes, when nothing more comes."""
    connection.sendall(hashlib.sha256(everything(connection)).hexdigest().encode())


@pytest.fixture
def server() -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:

        def make(handle: Callable[[socket.socket], object], path: Path | None = None) -> Server:
            made = Server(handle, path)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture(params=["segment", "user"])
def net(request: pytest.FixtureRequest, network_factory: NetworkFactory) -> Network:
    return network_factory("net", kind=request.param)


@GUEST
class TestServed:
    def test_megabytes_each_way_and_an_end_of_each(
        self, vm_factory: VMFactory, net: Network, server: Callable[..., Server]
    ) -> None:
        data = random.Random(7).randbytes(3 << 20)
        giving = net.serve(80, server(lambda connection: connection.sendall(data)).to)
        taking = net.serve(81, server(digest).to)
        vm = vm_factory(nics=[net])
        net.wait_all_up()
        assert giving.ip == taking.ip
        vm.run(f"nc {giving.ip} 80 </dev/null >/tmp/data")
        assert vm.run("sha256sum </tmp/data").stdout.split()[0] == hashlib.sha256(data).hexdigest()
        assert vm.run(f"nc {taking.ip} 81 </tmp/data").stdout == hashlib.sha256(data).hexdigest()
        assert (giving.connections, taking.connections) == (1, 1)
