"""What the synchronous and the asynchronous face have in common: commands, answers and errors."""

from __future__ import annotations

import itertools
import json
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pytest_qemuvm.errors import CommandError, ConnectError, QmpError, QmpTimeout, SpecError
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.qmp.events import EventLog, EventWait, Match, Names
from pytest_qemuvm.qmp.passing import Turns
from pytest_qemuvm.qmp.transcript import Transcript, shorten

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from pytest_qemuvm.host.loop import LoopThread
    from pytest_qemuvm.qmp.link import Link
    from pytest_qemuvm.qmp.outbox import Descriptors

DEFAULT_TIMEOUT = 30.0
"""Seconds that a command or an event is given where the caller names no other figure."""

Timeout = float | Deadline | None
"""Seconds, a deadline that is already running, or None for the connection's default."""


class Death(Protocol):
    """How the process at the other end is known to have ended; the process layer provides it."""

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the process has ended, such as a pidfd."""

    def status(self) -> int | None:
        """Return the exit status (negative: the signal that killed it), or None while it is not known.

        Called on the loop's thread once the descriptor is readable; must not block.
        """

    def log_tail(self) -> str:
        """Return the last lines that the process wrote. Called on the loop's thread."""


def _running_future() -> Future[Mapping[str, Any]]:
    future: Future[Mapping[str, Any]] = Future()
    # A running future cannot be cancelled, so that the loop may resolve it without fearing a race.
    future.set_running_or_notify_cancel()
    return future


@dataclass(slots=True, eq=False)
class Call:
    """One command on its way, from being asked for to its answer."""

    command: str
    arguments: Mapping[str, Any] | None
    allow_dangerous: bool
    """The caller answers for what the command may do."""
    id: str
    data: bytes
    """What goes over the wire."""
    started: float = field(default_factory=time.perf_counter)
    future: Future[Mapping[str, Any]] = field(default_factory=_running_future)
    abandoned: bool = False
    """Nobody waits for the answer any more."""
    aside: bool = False
    """A question of the harness itself, which would only hide in the transcript what the test did."""
    descriptors: Descriptors | None = None
    """What travels with the command."""

    @property
    def seconds(self) -> float:
        """How long ago it was asked for."""
        return time.perf_counter() - self.started


def _encoded(command: object, arguments: Mapping[str, Any] | None, call_id: str) -> tuple[str, bytes]:
    """Return the arguments as text, and the whole message. Raises SpecError for what is no JSON."""
    if not isinstance(command, str):
        raise SpecError(f"{command!r} is not the name of a QMP command")
    try:
        # Unescaped, so that what is not Unicode fails here instead of in QEMU's parser.
        shown = json.dumps(arguments or {}, allow_nan=False, ensure_ascii=False)
        name = json.dumps(command, ensure_ascii=False)
        return shown, f'{{"execute":{name},"arguments":{shown},"id":"{call_id}"}}'.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"{command!r} cannot be sent: its arguments are no JSON", str(error)) from error


class Session:
    """One connection to one monitor, as both faces use it; every method may be called from any thread."""

    def __init__(
        self, loop: LoopThread, sock: socket.socket, *, death: Death | None, timeout: float, capacity: int
    ) -> None:
        self.loop = loop
        self.events = EventLog(capacity)
        self.transcript = Transcript()
        self.turns = Turns()
        self._sock = sock
        self._death = death
        self._timeout = timeout
        self._ids = itertools.count(1)
        self._link: Link | None = None

    @property
    def link(self) -> Link:
        """The connection on the loop; a ConnectError before ``connect`` was called."""
        if self._link is None:
            raise ConnectError("not connected yet", hint="call connect() first")
        return self._link

    @property
    def connected(self) -> bool:
        """True from a successful ``connect`` to the end of the connection."""
        return self._link is not None and self._link.connected

    def connect(self, deadline: Deadline) -> None:
        """Await the greeting and negotiate. Raises ConnectError, or QmpDisconnected where QEMU died."""
        from pytest_qemuvm.qmp.link import Link  # noqa: PLC0415  # asyncio and qemu.qmp are paid for here

        if self._link is not None:
            raise ConnectError("this client has been connected before")
        self._link = Link(self.loop, self._death, self.events, self.transcript)
        self.loop.call(self._link.connect(self._sock, deadline))

    def close(self) -> None:
        """Hang up and end every wait; idempotent, also after the loop has been closed."""
        if self._link is not None and not self.loop.closed:
            self.loop.call(self._link.close())
        # Closed by now, unless it never came to a connection.
        self._sock.close()

    def deadline(self, timeout: Timeout) -> Deadline:
        """Return the deadline that the caller meant."""
        if isinstance(timeout, Deadline):
            return timeout
        return Deadline.after(self._timeout if timeout is None else timeout)

    def perform(
        self,
        command: str,
        arguments: Mapping[str, Any] | None,
        *,
        allow_dangerous: bool,
        aside: bool = False,
        descriptors: Descriptors | None = None,
    ) -> Call:
        """Send a command and return at once: the one door through which every command goes.

        What judges commands or keeps a record of them belongs here, before the last line; until then not a
        byte has been sent. Raises SpecError for arguments that JSON cannot express.
        """
        link = self.link
        call_id = f"qemuvm-{next(self._ids)}"
        shown, data = _encoded(command, arguments, call_id)
        call = Call(command, arguments, allow_dangerous, call_id, data, aside=aside, descriptors=descriptors)
        if not aside:
            self.transcript.sent(call_id, command, shown)
        link.issue(call)
        return call

    def value(self, call: Call, reply: Mapping[str, Any]) -> Any:
        """Return what the reply carries. Raises CommandError where it is QEMU's refusal."""
        try:
            return reply["return"]
        except KeyError:
            pass
        error = reply.get("error")
        class_, desc = (error.get("class"), error.get("desc")) if isinstance(error, dict) else (None, None)
        if not (isinstance(class_, str) and isinstance(desc, str)):
            raise QmpError(f"the reply to {call.command} is not a QMP reply", shorten(repr(reply)))
        raise CommandError(
            f"QEMU refused {call.command}: {desc}",
            f"error class: {class_}\narguments: {shorten(repr(call.arguments))}",
            class_=class_,
            desc=desc,
        )

    def abandon(self, call: Call) -> None:
        """Wait for the reply no longer; if it comes after all, it is dropped."""
        call.abandoned = True
        if not call.aside:
            self.transcript.unanswered(call.id, call.command, "nobody waits any more", call.seconds)

    def overdue(self, call: Call, deadline: Deadline) -> QmpTimeout:
        """Give up on a reply and return the error that says so."""
        self.abandon(call)
        return QmpTimeout(
            f"no reply to {call.command} within {deadline.seconds:g} s",
            "outcome unknown: QEMU may still carry the command out; the connection stays usable"
            + self._log_tail(),
            waited_for=f"the reply to {call.command}",
            seconds=deadline.seconds,
        )

    def missing(self, names: Names, match: Match | None, wait: EventWait, deadline: Deadline) -> QmpTimeout:
        """Give up on an event and return the error that says so, with what came instead."""
        self.events.forget(wait)
        wanted = names if isinstance(names, str) else " or ".join(names)
        if match is not None:
            wanted += f" matching {match!r}"
        recent = [f"{event.seq} {event.name} {shorten(repr(event.data))}" for event in self.events][-5:]
        return QmpTimeout(
            f"no event {wanted} within {deadline.seconds:g} s",
            "\n".join(["the newest events:", *(recent or ["(none)"])]) + self._log_tail(),
            waited_for=f"the event {wanted}",
            seconds=deadline.seconds,
        )

    def _log_tail(self) -> str:
        log = self._death.log_tail().rstrip() if self._death is not None else ""
        return f"\nlog:\n{log}" if log else ""
