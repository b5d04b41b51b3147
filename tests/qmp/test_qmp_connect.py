"""How a connection comes about, or does not."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from qmp_child import Child

from pytest_qemuvm.errors import ConnectError, QmpDisconnected
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.qmp import Client, Qmp


def test_greeting_is_kept(client):
    assert client.greeting["version"]["qemu"]["major"] == 9
    assert client.connected


def test_silence_is_a_connect_error_in_time(ends, loop):
    started = time.monotonic()
    with pytest.raises(ConnectError):
        Client.from_socket(ends[0], timeout=0.1, loop=loop)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\xff\xfe\x00\n",
        b'{"QMP": {"version"',
        b'{"QMP": {}}\n',
        b'{"QMP": 7}\n',
        b"[]\n",
        b"\n",
        b"",
        b"[" * 100_000 + b"\n",
        b'{"QMP": {"version": {}, "capabilities": []}}\n{"error": {"class": "GenericError", "desc": "no"}}\n',
        b'{"QMP": {"version": {}, "capabilities": []}}\nnonsense\n',
        b'{"QMP": {"version": {}, "capabilities": []}}\n',
    ],
    ids=[
        "another protocol",
        "no text",
        "half a greeting",
        "empty greeting",
        "greeting of a wrong type",
        "not an object",
        "empty line",
        "nothing",
        "nested without end",
        "negotiation refused",
        "negotiation garbled",
        "negotiation unanswered",
    ],
)
def test_anything_but_a_greeting_is_a_connect_error(ends, loop, said):
    ours, peer = ends
    peer.say(said)
    peer.close()
    with pytest.raises(ConnectError):
        Client.from_socket(ours, timeout=10, loop=loop)
    assert ours.fileno() == -1


def test_half_a_greeting_from_a_peer_that_stays_times_out(ends, loop):
    ours, peer = ends
    peer.say(b'{"QMP": {"version"')
    with pytest.raises(ConnectError):
        Client.from_socket(ours, timeout=0.1, loop=loop)
    assert ours.fileno() == -1


def test_peer_that_hangs_up_right_behind_its_greeting(ends, loop):
    ours, peer = ends
    peer.greet()
    peer.event("SHUTDOWN", guest=False)
    peer.sock.shutdown(socket.SHUT_WR)
    with Client.from_socket(ours, timeout=10, loop=loop) as client:
        assert client.wait_event("SHUTDOWN").data == {"guest": False}
        with pytest.raises(QmpDisconnected):
            client.execute("query-status")
        assert not client.connected


def test_peer_that_is_gone_before_it_is_greeted(ends, loop):
    ours, peer = ends
    peer.greet()
    peer.close()
    with (
        pytest.raises((ConnectError, QmpDisconnected)),
        Client.from_socket(ours, timeout=10, loop=loop) as client,
    ):
        client.execute("query-status")
    assert ours.fileno() == -1


def test_greeting_in_single_bytes(ends, loop, in_thread):
    ours, peer = ends
    connecting = in_thread(Client.from_socket, ours, timeout=10, loop=loop)
    for byte in b'{"QMP": {"version": {}, "capabilities": []}}\r\n':
        peer.say(bytes([byte]))
    peer.say({"return": {}})
    connecting.result(10).close()


def test_qemu_that_dies_before_its_greeting_is_a_death(ends, loop, bystander, in_thread):
    ours, _peer = ends
    client = Qmp(loop, ours, death=bystander)
    connecting = in_thread(client.connect, Deadline.after(10))
    bystander.process.kill()
    with pytest.raises(QmpDisconnected) as caught:
        connecting.result(10)
    assert caught.value.status == -9
    assert "the end" in caught.value.log
    client.close()


def test_qemu_that_refuses_its_command_line_is_a_death(loop, ends, tmp_path):
    ours, peer = ends
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.exit('bad option')"], stdout=output, stderr=output
        )
    child = Child(process, log)
    peer.close()
    client = Qmp(loop, ours, death=child)
    with pytest.raises(QmpDisconnected) as caught:
        client.connect(Deadline.after(10))
    assert (caught.value.status, caught.value.log) == (1, "bad option\n")
    with pytest.raises(QmpDisconnected):
        client.execute("query-status")
    client.close()
    child.close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("closed", [True, False])
def test_socket_that_leads_nowhere_is_a_connect_error(loop, kind, closed):
    sock = socket.socket(socket.AF_UNIX, kind)
    if closed:
        sock.close()
    with pytest.raises(ConnectError):
        Client.from_socket(sock, timeout=10, loop=loop)
    assert sock.fileno() == -1


def test_interrupted_connecting_leaves_nothing(ends, loop, in_thread):
    ours, peer = ends

    def interrupt():
        # Asked for the negotiation, so the client waits for the answer.
        peer.say(b'{"QMP": {"version": {}, "capabilities": []}}\n')
        assert b"qmp_capabilities" in peer.sock.recv(4096)
        os.kill(os.getpid(), signal.SIGINT)

    client = Qmp(loop, ours)
    interrupting = in_thread(interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.connect(10)
    interrupting.result(10)
    client.close()
    assert ours.fileno() == -1


def test_command_before_connecting_is_a_connect_error(ends, loop):
    client = Qmp(loop, ends[0])
    with pytest.raises(ConnectError):
        client.execute("query-status")
    client.close()
    assert ends[0].fileno() == -1


def test_connecting_twice_is_a_connect_error(client):
    with pytest.raises(ConnectError):
        client.connect()


def test_own_loop_ends_with_the_client(ends):
    ours, peer = ends
    peer.greet()
    client = Client.from_socket(ours, timeout=10)
    assert not client._session.loop.closed
    client.close()
    client.close()
    assert client._session.loop.closed
    with pytest.raises(QmpDisconnected):
        client.execute("query-status")


def test_importing_the_package_brings_in_neither_asyncio_nor_the_library():
    code = "import sys, pytest_qemuvm.qmp; print([m for m in ('asyncio', 'qemu.qmp') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_many_connections_leave_no_descriptor(loop, bystander):
    def descriptors():
        loop.call(asyncio.sleep(0))
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    for _ in range(20):
        ours, theirs = socket.socketpair()
        theirs.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\n{"return": {}}\n')
        client = Qmp(loop, ours, death=bystander)
        client.connect(10)
        client.close()
        theirs.close()
    assert descriptors() == before
