"""One port of the agent: bytes in and out by a deadline, and finding each other again."""

from __future__ import annotations

import contextlib
import secrets
import select
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from pytest_qemuvm.errors import ChannelError
from pytest_qemuvm.guest import wire
from pytest_qemuvm.host.deadline import Deadline

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from pytest_qemuvm.guest.channel import Interrupt

_CHUNK = 1 << 20
_GRACE = 1.0
"""Seconds in which the reason for a closed socket should have arrived."""


class Late(Exception):  # internal; callers turn it into the error that names what they awaited
    """The deadline passed."""


class Restarted(ChannelError):
    """The guest booted again while a request was under way; whether it was carried out is unknown."""


@dataclass(frozen=True, slots=True)
class PortState:
    """What was agreed with the agent on a port at one moment."""

    boot: str | None
    sequence: int
    dirty: bool
    debt: int


class Port:
    """The host's end of one virtio-serial port. Used by one thread at a time."""

    def __init__(self, sock: socket.socket, index: int, interrupt: Interrupt) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.index = index
        self._interrupt = interrupt
        self._poll = select.poll()
        self._poll.register(interrupt.fileno(), select.POLLIN)
        self._poll.register(sock.fileno(), select.POLLIN)
        self._buffer = bytearray()
        self._debt = 0
        self._nonces: set[str] = set()
        self.sequence = 0
        """The number of the last request."""
        self.boot: str | None = None
        """The id of the boot whose agent answers here; None until it has been heard."""
        self.dirty = True
        """True while a sync must come before the next request."""

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    @property
    def state(self) -> PortState:
        """What is agreed with the agent now."""
        return PortState(self.boot, self.sequence, self.dirty, self._debt)

    def return_to(self, state: PortState) -> None:
        """Go back to an earlier moment, as the guest, which stands still, has done.

        What it has said since then is dropped. Where a request was under way, then or now, a sync tells where
        its rest ends.
        """
        under_way = self.dirty and self.boot is not None
        with contextlib.suppress(BlockingIOError):
            while self._sock.recv(_CHUNK):
                pass
        self._buffer.clear()
        self.boot, self.sequence, self._debt = state.boot, state.sequence, state.debt
        self.dirty = state.dirty or under_way

    def settle(self, deadline: Deadline, *, first: float, every: float) -> None:
        """Return once the agent has been heard, and nothing of an earlier request can come any more.

        A greeting is enough for a port that was never used. The first sync is sent after ``first`` seconds,
        further ones ``every`` so many, since one may be lost in a restore. Raises Late.
        """
        greeting_counts = self.boot is None
        if self._debt:
            try:
                self._send_counted([bytes(self._debt)], deadline)
            except Restarted:
                return
        turn = deadline.sooner(first)
        while True:
            try:
                message = self._message(turn)
            except Late:
                if deadline.expired:
                    raise
                self._send_sync(deadline)
                turn = deadline.sooner(every)
                continue
            match message:
                case wire.Hello(boot) if greeting_counts or boot != self.boot:
                    self._settled(boot)
                    return
                case wire.Sync(nonce, boot) if nonce in self._nonces:
                    self._settled(boot)
                    return
                case _:
                    # What an earlier request left behind; the sync tells where it ends.
                    continue

    def adopt(self, boot: str) -> None:
        """Take that boot for the one whose agent answers here, though it was never heard."""
        self._settled(boot)

    def await_hello(self, deadline: Deadline) -> None:
        """Return once an agent has opened this port. Raises Late."""
        while True:
            message = self._message(deadline)
            if isinstance(message, wire.Hello):
                self._settled(message.boot)
                return

    def catch_up(self) -> None:
        """Take in what came while nobody was waiting: the greeting of a guest that booted again."""
        expired = Deadline(0.0, 0.0)
        while True:
            try:
                message = self._message(expired)
            except Late:
                return
            match message:
                case wire.Hello(boot):
                    self._settled(boot)
                case wire.Sync(_, boot):
                    self.boot = boot
                case _:
                    self.dirty = True

    def ask(self, op: str, words: Sequence[bytes], payload: bytes | None, deadline: Deadline) -> int:
        """Send a request and return its sequence number. Raises Late, Restarted."""
        assert self.boot is not None, "settle() comes first"
        self.sequence += 1
        self.dirty = True
        head, body = wire.request(self.boot, op, self.sequence, words)
        self._send(head, deadline)
        for stage in (body, payload):
            if stage is not None:
                self._send_counted([stage, wire.COMMIT], deadline)
        return self.sequence

    def answer(self, sequence: int, deadline: Deadline) -> wire.Reply:
        """Return the head of the reply to that request. Raises Late, Restarted, ChannelError on garbage."""
        while True:
            line = self._line(deadline)
            match wire.parse(line):
                case wire.Reply(sequence=number) as reply if number == sequence:
                    return reply
                case wire.Hello(boot):
                    self._raise_restarted(boot)
                case wire.Sync():
                    # The guest was asked more than once, and had answered before.
                    continue
                case _:
                    raise ChannelError(
                        "the guest's agent sent something that is no reply", f"received: {line[:200]!r}"
                    )

    def body(self, reply: wire.Reply, deadline: Deadline) -> tuple[bytes, bytes]:
        """Return the two payloads of a reply. The port is clean afterwards. Raises Late, Restarted."""
        output = self._exactly(reply.output, deadline)
        error = self._exactly(reply.error, deadline)
        self.dirty = False
        return output, error

    def _settled(self, boot: str) -> None:
        self.boot = boot
        self.dirty = False
        self._debt = 0

    def _raise_restarted(self, boot: str) -> NoReturn:
        before = self.boot
        self._settled(boot)
        raise Restarted(
            "the guest restarted while a request was under way",
            f"boot id before: {before}\nboot id now: {boot}",
            "whether the request was carried out is unknown",
        )

    def _send_sync(self, deadline: Deadline) -> None:
        nonce = secrets.token_hex(6)
        self._nonces.add(nonce)
        self._send(wire.sync(nonce), deadline)

    def _message(self, deadline: Deadline) -> wire.Reply | wire.Hello | wire.Sync | None:
        return wire.parse(self._line(deadline, strict=False))

    def _line(self, deadline: Deadline, *, strict: bool = True) -> bytes:
        """Return the next line that is not empty, without its end."""
        while True:
            end = self._buffer.find(b"\n")
            if end > 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                return line
            if end == 0:
                del self._buffer[:1]
                continue
            if len(self._buffer) > wire.LONGEST_LINE:
                if strict:
                    raise ChannelError(
                        "the guest's agent sent something that is no reply",
                        f"received: {bytes(self._buffer[:200])!r}",
                    )
                self._buffer.clear()
            self._buffer += self._receive(deadline)

    def _exactly(self, size: int, deadline: Deadline) -> bytes:
        if len(self._buffer) >= size:
            data = bytes(self._buffer[:size])
            del self._buffer[:size]
            return data
        whole = bytearray(size)
        have = len(self._buffer)
        whole[:have] = self._buffer
        self._buffer.clear()
        view = memoryview(whole)
        while have < size:
            boot = wire.cut_by_hello(view[:have], self.boot)
            if boot is not None:
                self._raise_restarted(boot)
            if self._wait(select.POLLIN, deadline):
                have += self._received_into(view[have:])
        # A copy; bytes is what callers may keep and hash, and 100 MB take 10 ms.
        return bytes(whole)

    def _received_into(self, view: memoryview) -> int:
        try:
            got = self._sock.recv_into(view)
        except BlockingIOError:
            return 0
        except OSError:  # also of a socket that another thread has closed meanwhile
            got = 0
        if got == 0:
            self._raise_closed()
        return got

    def _receive(self, deadline: Deadline) -> bytes:
        """Return some bytes."""
        while True:
            if not self._wait(select.POLLIN, deadline):
                continue
            try:
                data = self._sock.recv(_CHUNK)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self._raise_closed()
            return data

    def _send_counted(self, parts: Sequence[bytes], deadline: Deadline) -> None:
        """Send what the guest knows the length of.

        What is left unsent when this ends early is owed: the agent goes on waiting for it, and gets zeros
        before the next sync, which tell it that the request was given up.
        """
        self._debt = sum(map(len, parts))
        for part in parts:
            self._send(part, deadline)
        self._debt = 0

    def _send(self, data: bytes, deadline: Deadline) -> None:
        rest = memoryview(data)
        while rest:
            try:
                sent = self._sock.send(rest)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._raise_closed()
            rest = rest[sent:]
            self._debt = max(0, self._debt - sent)
            if rest and self._wait(select.POLLIN | select.POLLOUT, deadline) & select.POLLIN:
                # Nothing is due before the request is out, except the greeting of a guest that restarted.
                self._buffer += self._receive(deadline)
                boot = wire.cut_by_hello(self._buffer, self.boot)
                if boot is not None and self.boot is not None:
                    self._buffer.clear()
                    self._raise_restarted(boot)

    def _wait(self, events: int, deadline: Deadline) -> int:
        """Return which of the events the socket has; 0 if it was a false alarm.

        What the guest has said counts before what became of it: a reply and QEMU's end may come together.
        """
        number = self._sock.fileno()
        if number < 0:
            self._raise_closed()
        self._poll.modify(number, events)
        ready = dict(self._poll.poll(deadline.remaining * 1000))
        mine = ready.pop(number, 0)
        if mine & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
            mine |= select.POLLIN
        if mine & events:
            return mine & events
        if ready:
            raise self._interrupt.error()
        if deadline.expired:
            raise Late
        return 0

    def _raise_closed(self) -> NoReturn:
        """Raise what ended the connection. QEMU's end of the socket closes just before it can be reaped."""
        alarm = self._interrupt.fileno()
        if self._sock.fileno() < 0 or alarm < 0:
            raise ChannelError("the channel was closed in another thread", f"port {self.index}")
        poll = select.poll()
        poll.register(alarm, select.POLLIN)
        if poll.poll(_GRACE * 1000):
            raise self._interrupt.error()
        raise ChannelError("QEMU closed the agent's port", f"port {self.index}")
