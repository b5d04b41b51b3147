"""The serial console: everything the guest says there, awaited by pattern, and a line to talk back."""

from __future__ import annotations

import codecs
import re
import threading
from typing import TYPE_CHECKING, Protocol

from pytest_qemuvm.errors import ChannelError, WaitTimeout
from pytest_qemuvm.guest.wire import encode
from pytest_qemuvm.host.deadline import Deadline

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pytest_qemuvm.errors import QemuVMError
    from pytest_qemuvm.host.loop import LoopThread

KEPT = 4 * 1024 * 1024
"""Characters of output that are kept in memory; the log file keeps all of it."""
EXPECT_SECONDS = 30.0
TAIL_LINES = 25
"""Lines that an error quotes."""
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[()][A-Z0-9]|[=>78cM])|\r")
_UNFINISHED = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*|[()])?\Z")


class Alarm(Protocol):
    """Tells that waiting has become pointless, as ``machine.interrupt.Interrupt`` does."""

    @property
    def raised(self) -> bool:
        """True once there is a reason."""

    def error(self) -> QemuVMError:
        """Return the reason."""

    def listen(self, listener: Callable[[], object]) -> None:
        """Call back when it is raised."""

    def fileno(self) -> int:
        """Return a descriptor that is readable once it has been raised."""


class Console:
    """The guest's serial console.

    It is read all the time, on the loop's thread: a guest that fills a socket nobody reads stands still, and
    looks as if it hung in its boot.
    """

    def __init__(self, loop: LoopThread, sock: socket.socket, alarm: Alarm, history: str = "") -> None:
        self._loop = loop
        self._sock = sock
        self._alarm = alarm
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._text = history
        self._unfinished = ""
        self._expected_to = 0
        self._changed = threading.Condition()
        sock.setblocking(False)
        alarm.listen(self._wake)
        loop.post(self._begin)

    @property
    def text(self) -> str:
        """All that the guest has said since launch (the last 4 MiB of it), without terminal escapes."""
        return self._text

    def tail(self, lines: int = TAIL_LINES) -> str:
        """Return the last lines of the output, for an error or a report."""
        return "\n".join(self.text.rstrip().splitlines()[-lines:])

    def expect(self, pattern: str | re.Pattern[str], timeout: float = EXPECT_SECONDS) -> re.Match[str]:
        """Wait until the output matches a regular expression and return the match.

        In a pattern given as a string, ``^`` and ``$`` match at every line. Each call looks at what came
        after the last match, so that a second prompt is not taken for the first.
        ``timeout`` is in seconds. Raises WaitTimeout with the last lines, or at once what ended the guest.
        """
        compiled = re.compile(pattern, re.MULTILINE) if isinstance(pattern, str) else pattern
        deadline = Deadline.after(timeout)
        with self._changed:
            while True:
                # Asked for before the search, so that what arrived with the end is still seen.
                ended = self._alarm.raised
                found = self._search(compiled)
                if found is not None:
                    return found
                if ended:
                    raise self._alarm.error()
                if deadline.expired:
                    break
                self._changed.wait(deadline.remaining)
        raise WaitTimeout(
            f"the console did not show {compiled.pattern!r} within {timeout:g} s",
            f"last console lines:\n{self.tail()}",
            waited_for=f"console output matching {compiled.pattern!r}",
            seconds=timeout,
        )

    def send(self, line: str, timeout: float = EXPECT_SECONDS) -> None:
        """Type a line, as if somebody sat at the console; the newline is added.

        ``timeout`` is in seconds. Raises WaitTimeout where the guest does not take it, or at once what ended
        the guest.
        """
        data = encode(line) + b"\n"
        deadline = Deadline.after(timeout)
        while data:
            if self._alarm.raised:
                raise self._alarm.error()
            try:
                data = data[self._sock.send(data) :]
            except BlockingIOError:
                self._await_room(deadline)
            except OSError as error:
                raise ChannelError(f"the console cannot be written to: {error}") from error

    def _await_room(self, deadline: Deadline) -> None:
        import select  # noqa: PLC0415  # only a console that is full comes here

        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        poll.register(self._alarm.fileno(), select.POLLIN)
        if not poll.poll(deadline.remaining * 1000):
            raise WaitTimeout(
                f"the guest did not read its console for {deadline.seconds:g} s",
                f"last console lines:\n{self.tail()}",
                waited_for="the guest to read its console",
                seconds=deadline.seconds,
            )

    def _search(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.search(self._text, self._expected_to)
        if found is not None:
            self._expected_to = found.end()
        return found

    def _begin(self) -> None:
        self._loop.running.add_reader(self._sock.fileno(), self._read)

    def _read(self) -> bool:
        """Take what has arrived; return False if there was nothing or there never will be."""
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._end()
            return False
        # An escape sequence may be cut in two by a packet's end: its start waits for the rest.
        raw = self._unfinished + self._decode(data)
        cut = _UNFINISHED.search(raw)
        self._unfinished = cut[0] if cut else ""
        with self._changed:
            self._text += _ESCAPES.sub("", raw[: cut.start()] if cut else raw)
            excess = len(self._text) - KEPT
            if excess > 0:
                self._text = self._text[excess:]
                self._expected_to = max(0, self._expected_to - excess)
            self._changed.notify_all()
        return True

    def _end(self) -> None:
        fd = self._sock.fileno()
        if fd >= 0:
            self._loop.running.remove_reader(fd)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    async def _drain(self) -> None:
        while self._read():
            pass
        self._end()

    def close(self) -> None:
        """Read what QEMU left in the socket and stop reading; the text stays."""
        self._loop.call(self._drain())
        self._sock.close()
