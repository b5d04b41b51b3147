"""A scripted peer on a socketpair, a real QEMU without a guest, and threads to call from."""

import json
import shutil
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from qmp_child import Child

from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.loop import LoopThread
from pytest_qemuvm.qmp import Client, Qmp

GREETING = b'{"QMP": {"version": {"qemu": {"major": 9, "minor": 1, "micro": 0}}, "capabilities": []}}\r\n'
PATIENCE = 10.0
"""Seconds after which a test is wrong and not slow."""


class Peer:
    """The monitor's side of a connection, played by the test itself, line by line."""

    def __init__(self, sock):
        self.sock = sock
        self._lines = sock.makefile("rb")

    def say(self, *messages):
        for message in messages:
            raw = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\r\n"
            self.sock.sendall(raw)

    def greet(self):
        """Greet and agree to the negotiation; the socket keeps both until the client asks."""
        self.say(GREETING, {"return": {}})

    def hear(self):
        """Return the next command, the negotiation left out."""
        while True:
            message = json.loads(self._lines.readline())
            if message["execute"] != "qmp_capabilities":
                return message

    def answer(self, value):
        """Hear one command, return the value for it, and return the command."""
        command = self.hear()
        self.say({"return": value, "id": command["id"]})
        return command

    def answer_until(self, last):
        """Answer commands with their argument ``number`` up to that command; return them all."""
        heard = []
        while not heard or heard[-1]["execute"] != last:
            heard.append(self.hear())
            self.say({"return": heard[-1]["arguments"]["number"], "id": heard[-1]["id"]})
        return heard

    def event(self, name, **data):
        self.say({"event": name, "data": data, "timestamp": {"seconds": 7, "microseconds": 500000}})

    def close(self):
        # A makefile and its socket share one descriptor, which closes with the second of them.
        self._lines.close()
        self.sock.close()


@pytest.fixture(autouse=True)
def silent_asyncio(caplog):
    """A task or callback that fails unseen is only ever logged: make it fail the test."""
    yield
    complaints = [
        r.getMessage() for r in caplog.get_records("call") if r.name == "asyncio" and r.levelno > 20
    ]
    assert complaints == []


@pytest.fixture(scope="session")
def loop():
    with LoopThread() as thread:
        yield thread


@pytest.fixture
def in_thread():
    """Call a function in another thread; returns its future."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


@pytest.fixture
def ends():
    """Both ends of a socketpair: the client's socket and the peer."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    peer = Peer(theirs)
    yield ours, peer
    peer.close()
    ours.close()


@pytest.fixture
def peer(ends):
    return ends[1]


@pytest.fixture
def client(ends, loop):
    ours, peer = ends
    peer.greet()
    with Client.from_socket(ours, timeout=PATIENCE, loop=loop) as client:
        yield client


@pytest.fixture
def bystander(tmp_path):
    """A child that is not QEMU: it stands for the process whose death counts, and holds no socket."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    log = tmp_path / "log"
    log.write_text("qemu: so this is the end\n")
    child = Child(process, log)
    yield child
    process.stdin.close()
    child.close()


@pytest.fixture
def qemu(tmp_path):
    """A QEMU without a guest: the client's end of its monitor, and the process."""
    binary = shutil.which("qemu-system-x86_64")
    if binary is None:
        pytest.skip("no qemu-system-x86_64")
    ours, theirs = socket.socketpair()
    argv = [binary, "-nodefaults", "-no-user-config", "-display", "none", "-S", "-m", "64"]
    argv += ["-accel", "tcg,tb-size=16"]
    argv += ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"]
    # An address of the kernel's choosing, without a path.
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")
    listener.listen()
    argv += ["-chardev", f"socket,id=second,fd={listener.fileno()},server=on,wait=off"]
    argv += ["-mon", "chardev=second,mode=control"]
    log = tmp_path / "qemu.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            pass_fds=[theirs.fileno(), listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    theirs.close()
    child = Child(process, log)
    child.second_monitor = listener.getsockname()
    listener.close()
    yield ours, child
    child.close()
    ours.close()


@pytest.fixture
def machine(qemu):
    """The process alone."""
    return qemu[1]


@pytest.fixture
def monitor(qemu, loop):
    """A client of a real QEMU."""
    ours, child = qemu
    with Qmp(loop, ours, death=child, timeout=PATIENCE) as client:
        client.connect(Deadline.after(PATIENCE))
        yield client


@pytest.fixture
def stalled_loop(loop):
    """Hold the loop's thread still inside the block, to make an order of things certain."""

    class Stall:
        def __enter__(self):
            held = threading.Event()
            self.release = threading.Event()
            loop.post(lambda: (held.set(), self.release.wait(PATIENCE)))
            assert held.wait(PATIENCE)

        def __exit__(self, *exc_info):
            self.release.set()

    return Stall
