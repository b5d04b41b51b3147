"""Ctrl-C in the middle of sending, at every place where Python can raise it, one after the other."""

import dis
import fcntl
import gc
import itertools
import json
import os
import socket
import sys
from pathlib import Path

import pytest

from pytest_qemuvm.qmp import outbox, wire

NULL = Path(os.devnull)
TRACED = frozenset({wire.__file__, outbox.__file__})

CHECKED = frozenset({"CALL", "CALL_FUNCTION_EX", "CALL_KW", "RESUME", "JUMP_BACKWARD"})
"""The instructions after which the interpreter runs the handlers of signals; between others it never does."""


class InterruptAt:
    """Raises KeyboardInterrupt in this thread at the n-th such place in the modules that send."""

    def __init__(self, n):
        self.left = n
        self._instructions = {}

    def __enter__(self):
        sys.settrace(self._call)
        return self

    def __exit__(self, *exc_info):
        sys.settrace(None)

    def _call(self, frame, event, _arg):
        if frame.f_code.co_filename in TRACED:
            frame.f_trace_opcodes = True
            return self._opcode
        return None

    def _opcode(self, frame, event, _arg):
        if event == "opcode" and self._follows_a_check(frame):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self._opcode

    def _follows_a_check(self, frame):
        code = frame.f_code
        if code not in self._instructions:
            shown = list(dis.get_instructions(code))
            self._instructions[code] = {
                after.offset: before.opname in CHECKED for before, after in itertools.pairwise(shown)
            }
        return self._instructions[code].get(frame.f_lasti, False)


def test_an_interruption_anywhere_neither_repeats_a_byte_nor_holds_up_the_next(client, peer, in_thread):
    interrupted, n = 0, 0
    while True:
        n += 1
        point = InterruptAt(n)
        answering = in_thread(peer.answer_until, "then")
        try:
            with point:
                client.execute("now", {"number": n}, timeout=5)
        except KeyboardInterrupt:
            interrupted += 1
        assert client.execute("then", {"number": n}, timeout=5) == n
        heard = answering.result(10)
        # The interrupted command went out once or not at all, whole and in its order.
        expected = [("now", {"number": n}), ("then", {"number": n})]
        assert [(each["execute"], each["arguments"]) for each in heard] in (expected, expected[1:])
        if point.left > 0:
            break
    assert interrupted == n - 1 >= 10


class Receiver:
    """The monitor's side, which reads as QEMU does: byte by byte, to know where descriptors belong."""

    def __init__(self, sock):
        self._sock = sock

    def answer_until(self, last):
        """Answer commands up to that one; return each with the descriptors that came within it."""
        heard = []
        while not heard or heard[-1][0] != last:
            line, passed = b"", []
            while not line.endswith(b"\n"):
                byte, descriptors, *_ = socket.recv_fds(self._sock, 1, 8)
                line += byte
                if descriptors:
                    assert len(line) == 1
                    passed += descriptors
            message = json.loads(line)
            reply = {"return": {"fdset-id": 7}, "id": message["id"]}
            self._sock.sendall(json.dumps(reply).encode() + b"\n")
            heard.append((message["execute"], [os.fstat(number).st_ino for number in passed]))
            for number in passed:
                os.close(number)
        return heard


def open_descriptors():
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def test_an_interruption_anywhere_neither_parts_a_descriptor_from_its_command_nor_loses_one(
    client, peer, in_thread, tmp_path
):
    receiver = Receiver(peer.sock)
    assert json.loads(peer.sock.recv(4096))["execute"] == "qmp_capabilities"
    interrupted, n = 0, 0
    (tmp_path / "passed").touch()
    with (tmp_path / "passed").open() as file:
        inode = os.fstat(file.fileno()).st_ino
        assert in_thread(receiver.answer_until, "then") is not None
        client.execute("then")
        before = open_descriptors()
        while True:
            n += 1
            point = InterruptAt(n)
            answering = in_thread(receiver.answer_until, "then")
            try:
                with point:
                    assert client.add_fd(file, timeout=5) == 7
            except KeyboardInterrupt:
                interrupted += 1
            client.execute("then", timeout=5)
            expected = [("add-fd", [inode]), ("then", [])]
            # That of the last round, which nobody saw answered, is asked after.
            heard = [each for each in answering.result(10) if each[0] != "query-version"]
            assert heard in (expected, expected[1:])
            assert open_descriptors() == before
            if point.left > 0:
                break
    assert interrupted == n - 1 >= 10


def test_descriptors_wait_for_the_bytes_before_them():
    """A peer that does not read: the socket is full in the middle of a command."""
    ours, theirs = socket.socketpair()
    out = outbox.Outbox(ours)
    with ours, theirs, NULL.open() as first, NULL.open("ab") as second:
        flood = b"x" * 2**20 + b"\n"
        out.send(flood)
        assert out.unsent
        for name, file in ((b"a", first), (b"b", second)):
            out.send(name + b"1\n", outbox.Descriptors([file.fileno()]))
            out.send(name + b"2\n")
        received, came = b"", []
        while not received.endswith(b"b2\n"):
            data, descriptors, *_ = socket.recv_fds(theirs, 4096, 8)
            for number in descriptors:
                came.append(_mode(number))
                os.close(number)
            received += data
            out.send()
        assert received == flood + b"a1\na2\nb1\nb2\n"
        assert came == [os.O_RDONLY, os.O_WRONLY]
        assert out.unsent == b""


def _mode(number):
    return fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE


def test_what_was_never_sent_is_closed():
    ours, theirs = socket.socketpair()
    out = outbox.Outbox(ours)
    with ours, theirs, NULL.open() as file:
        out.send(b"x" * 2**20)
        before = open_descriptors()
        out.send(b"y", outbox.Descriptors([file.fileno()]))
        assert open_descriptors() == before + 1
        out.clear()
        assert open_descriptors() == before


def test_a_descriptor_that_is_not_open_is_none():
    before = open_descriptors()
    with NULL.open() as file, pytest.raises(OSError, match="Bad file descriptor"):
        outbox.Descriptors([file.fileno(), 10**6])
    assert open_descriptors() == before
