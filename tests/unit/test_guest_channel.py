"""The channel against a peer that plays the agent, well or badly."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import socket
import threading
import time

import pytest

from pytest_qemuvm.errors import (
    ChannelError,
    GuestCommandError,
    GuestCommandTimeout,
    QemuVMError,
    WaitTimeout,
)
from pytest_qemuvm.guest.agent import AgentChannel
from pytest_qemuvm.guest.channel import ExecResult
from pytest_qemuvm.guest.port import Port
from pytest_qemuvm.host.deadline import Deadline

BOOT = "0a1b2c3d-0000-4000-8000-000000000001"
OTHER = "99999999-0000-4000-8000-000000000002"
HELLO = f"\n!hello {BOOT} 0\n".encode()


class Ended(QemuVMError):
    """What the interrupt says."""


class PipeInterrupt:
    def __init__(self):
        self._read, self._write = os.pipe()

    def fileno(self):
        return self._read

    def error(self):
        return Ended("QEMU has ended")

    def fire(self):
        os.write(self._write, b"x")

    def close(self):
        os.close(self._read)
        os.close(self._write)


class Peer:
    """The other end of a port: reads lines, and answers as a test scripts it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.lines = sock.makefile("rb")
        self.requests: list[list[bytes]] = []

    def say(self, data: bytes) -> None:
        self.sock.sendall(data)

    def request(self) -> list[bytes]:
        """Return the words of the next request; syncs are answered on the way."""
        while True:
            line = self.lines.readline()
            if not line:
                raise EOFError
            if line.startswith(b"sync "):
                self.say(b"\n!sync " + line[5:-1] + b" " + BOOT.encode() + b" 0\n")
            elif line.strip():
                words = line.split()
                self.requests.append(words)
                return words

    def reply(self, words: list[bytes], status: int = 0, out: bytes = b"", err: bytes = b"") -> None:
        self.say(b"= %b %d %d %d\n%b%b" % (words[2], status, len(out), len(err), out, err))

    def payload(self, size: int) -> bytes:
        data = self.lines.read(size)
        assert self.lines.readline() == b"commit\n"
        return data


@pytest.fixture
def interrupt():
    made = PipeInterrupt()
    yield made
    made.close()


@pytest.fixture
def connect(interrupt):
    """Return a channel and the peers of its ports; scripts run in threads that must not fail."""
    with contextlib.ExitStack() as stack:
        failures: list[BaseException] = []

        def make(*scripts):
            ours, peers = [], []
            for script in scripts:
                left, right = socket.socketpair()
                peer = Peer(right)
                ours.append(left)
                peers.append(peer)
                thread = threading.Thread(target=play, args=(script, peer))
                thread.start()
                stack.callback(right.close)
                stack.callback(peer.lines.close)
                stack.callback(thread.join)
            channel = AgentChannel(ours, interrupt)
            stack.callback(channel.close)
            return (channel, *peers)

        def play(script, peer):
            try:
                script(peer)
            except (EOFError, ConnectionError):
                pass
            except BaseException as error:  # noqa: BLE001  # handed to the test
                failures.append(error)

        yield make
    assert not failures, failures


def soon(seconds=5.0):
    return Deadline.after(seconds)


def echoing(peer):
    """Answer every request with the words it had."""
    peer.say(HELLO)
    while True:
        words = peer.request()
        if words[1] == b"push":
            peer.payload(int(words[3]))
        peer.reply(words, out=b" ".join(words[3:-1]))


def silent(peer):
    while True:
        peer.request()


def test_ready_by_the_greeting_alone(connect):
    channel, _peer = connect(lambda peer: peer.say(HELLO))
    channel.wait_ready(soon())
    assert channel.boot_id == BOOT


def test_ready_by_a_sync_where_the_greeting_was_long_ago(connect):
    channel, _peer = connect(silent)
    channel.resync(soon())
    assert channel.boot_id == BOOT


def test_never_ready_is_a_time_out(connect):
    channel, _peer = connect(lambda _peer: None)
    with pytest.raises(WaitTimeout) as caught:
        channel.wait_ready(soon(0.05))
    assert caught.value.seconds == 0.05


def test_a_command_and_its_result(connect):
    def script(peer):
        peer.say(HELLO)
        peer.reply(peer.request(), 3, b"out\xff", b"err")

    channel, peer = connect(script)
    result = channel.run("false", deadline=soon())
    assert (result.returncode, result.stdout_bytes, result.stderr, result.command) == (
        3,
        b"out\xff",
        "err",
        "false",
    )
    assert not result.ok
    assert peer.requests == [[b"0a1b2c3d", b"run", b"1", b"-", b"/root", b"false", b"."]]


def test_a_reply_in_the_smallest_pieces(connect):
    def script(peer):
        for byte in HELLO:
            peer.say(bytes([byte]))
        words = peer.request()
        for byte in b"\n= %b 0 3 2\nabcde" % words[2]:
            peer.say(bytes([byte]))

    channel, _peer = connect(script)
    result = channel.run("x", deadline=soon())
    assert (result.stdout, result.stderr) == ("abc", "de")


@pytest.mark.parametrize("garbage", [b"nonsense\n", b"= 1 0\n", b"= 7 0 0 0\n", b"x" * 10_000, b"\xff\xfe\n"])
def test_garbage_is_an_error_and_the_port_recovers(connect, garbage):
    def script(peer):
        peer.say(HELLO)
        peer.request()
        peer.say(garbage)
        echoing(peer)

    channel, _peer = connect(script)
    with pytest.raises(ChannelError):
        channel.run("first", deadline=soon())
    assert channel.run("second", deadline=soon()).stdout.endswith("second")


def test_a_late_reply_is_never_taken_for_anothers(connect):
    late = threading.Event()

    def script(peer):
        peer.say(HELLO)
        first = peer.request()
        late.wait(5)
        peer.reply(first, out=b"the first's")
        echoing(peer)

    channel, _peer = connect(script)
    with pytest.raises(GuestCommandTimeout) as caught:
        channel.run("first", deadline=soon(0.05))
    assert caught.value.result.stdout == ""
    late.set()
    assert channel.run("second", deadline=soon()).stdout.endswith("second")


def test_an_overrun_command_is_stopped_and_its_partial_output_kept(connect):
    running: list[list[bytes]] = []
    ports: list[Peer] = []

    def worker(peer):
        ports.append(peer)
        peer.say(HELLO)
        running.append(peer.request())
        echoing_after_hello(peer)

    def echoing_after_hello(peer):
        while True:
            peer.reply(peer.request(), out=b"fine")

    def control(peer):
        peer.say(HELLO)
        words = peer.request()
        assert words[1:2] + words[3:5] == [b"stop", b"0", running[0][2]]
        ports[0].reply(running[0], 137, b"partial")
        peer.reply(words)

    channel, _worker, _control = connect(worker, control)
    with pytest.raises(GuestCommandTimeout) as caught:
        channel.run("sleep", deadline=soon(0.05))
    assert (caught.value.result.stdout, caught.value.result.returncode) == ("partial", 137)
    assert channel.run("again", deadline=soon()).stdout == "fine"


def test_the_end_of_qemu_ends_a_wait_at_once(connect, interrupt):
    def script(peer):
        peer.say(HELLO)
        peer.request()
        interrupt.fire()

    channel, _peer = connect(script)
    started = time.monotonic()
    with pytest.raises(Ended):
        channel.run("x", deadline=soon(30))
    assert time.monotonic() - started < 5


def test_what_was_said_counts_before_the_end(connect, interrupt):
    def script(peer):
        peer.say(HELLO)
        words = peer.request()
        interrupt.fire()
        peer.reply(words, out=b"last words")

    channel, _peer = connect(script)
    with contextlib.suppress(Ended):
        # Either the reply was there in time or it was not; never anything else.
        assert channel.run("x", deadline=soon()).stdout == "last words"


@pytest.mark.parametrize("fired", [True, False])
def test_a_closed_port_is_told_from_a_dead_qemu(connect, interrupt, fired):
    def script(peer):
        peer.say(HELLO)
        peer.request()
        if fired:
            interrupt.fire()
        peer.sock.shutdown(socket.SHUT_RDWR)

    channel, _peer = connect(script)
    with pytest.raises(Ended if fired else ChannelError):
        channel.run("x", deadline=soon())


def test_a_restart_under_a_command(connect):
    def script(peer):
        peer.say(HELLO)
        peer.request()
        peer.say(f"\n!hello {OTHER} 0\n".encode())
        peer.reply(peer.request(), out=b"new")

    channel, peer = connect(script)
    with pytest.raises(ChannelError):
        channel.run("x", deadline=soon())
    assert channel.boot_id == OTHER
    assert channel.run("y", deadline=soon()).stdout == "new"
    assert peer.requests[1][0] == b"99999999"


def test_a_restart_that_cuts_a_payload_off(connect):
    def script(peer):
        peer.say(HELLO)
        words = peer.request()
        peer.say(b"= %b 0 100000 0\nonly this" % words[2])
        peer.say(f"\n!hello {OTHER} 0\n".encode())

    channel, _peer = connect(script)
    with pytest.raises(ChannelError):
        channel.pull("/file", deadline=soon())
    assert channel.boot_id == OTHER


def test_a_restart_while_nobody_waited_is_noticed_before_the_next_request(connect):
    def script(peer):
        peer.say(HELLO)
        peer.reply(peer.request())
        peer.say(f"\n!hello {OTHER} 0\n".encode())
        told.set()
        peer.reply(peer.request())

    told = threading.Event()
    channel, peer = connect(script)
    channel.run("x", deadline=soon())
    assert told.wait(5)
    assert channel.run("y", deadline=soon()).ok
    assert [words[0] for words in peer.requests] == [b"0a1b2c3d", b"99999999"]


def test_a_push_that_was_given_up_is_never_committed(connect):
    """The guest waits for the rest: it gets zeros, no commit, and then the next request."""
    size = 8_000_000
    go_on = threading.Event()
    seen = []

    def script(peer):
        peer.say(HELLO)
        peer.request()
        go_on.wait(5)
        seen.append(peer.lines.read(size))
        seen.append(peer.lines.readline())
        echoing_on(peer)

    def echoing_on(peer):
        while True:
            peer.reply(peer.request(), out=b"fine")

    channel, _peer = connect(script)
    with pytest.raises(WaitTimeout):
        channel.push(b"x" * size, "/file", deadline=soon(0.2))
    go_on.set()
    assert channel.run("y", deadline=soon()).stdout == "fine"
    assert re.fullmatch(rb"x+\0+", seen[0])
    assert b"commit" not in seen[1]


def test_files_that_cannot_be_moved_are_errors_of_the_command(connect):
    def script(peer):
        peer.say(HELLO)
        peer.reply(peer.request(), 1, err=b"no such file\n")

    channel, _peer = connect(script)
    with pytest.raises(GuestCommandError) as caught:
        channel.pull("/file", deadline=soon())
    assert caught.value.details == "no such file"
    assert not isinstance(caught.value, ChannelError)


def test_a_queue_for_the_only_port_ends_with_the_deadline(connect):
    began = threading.Event()

    def script(peer):
        peer.say(HELLO)
        peer.request()
        began.set()

    channel, _peer = connect(script)

    def occupy():
        with contextlib.suppress(QemuVMError):
            channel.run("x", deadline=soon(1))

    thread = threading.Thread(target=occupy)
    thread.start()
    assert began.wait(5)
    with pytest.raises(WaitTimeout):
        channel.run("y", deadline=soon(0.05))
    thread.join()


@pytest.mark.parametrize(
    "act",
    [
        lambda port: port.answer(1, Deadline.after(5)),
        lambda port: port.ask("run", [b"-"], None, Deadline.after(5)),
    ],
)
def test_a_port_that_another_thread_closed_is_told_as_such(interrupt, act):
    ours, theirs = socket.socketpair()
    port = Port(ours, 0, interrupt)
    port.boot = BOOT
    port.close()
    with theirs, pytest.raises(ChannelError):
        act(port)


def test_a_closed_channel_says_so(connect):
    channel, _peer = connect(silent)
    channel.close()
    channel.close()
    with pytest.raises(ChannelError):
        channel.run("x", deadline=soon())


def test_a_channel_needs_a_port(interrupt):
    with pytest.raises(ValueError, match="port"):
        AgentChannel([], interrupt)


def test_results_are_values():
    result = ExecResult("cmd", 0, b"\xff" * 500, b"", 0.5)
    assert pickle.loads(pickle.dumps(result)) == result
    assert "500 in all" in repr(result)
    assert result.stdout.encode("utf-8", "surrogateescape") == result.stdout_bytes
    assert "status: 0" in result.report()
    with pytest.raises(AttributeError):
        result.returncode = 1
