"""What the synchronous and the asynchronous face have in common: commands, answers and errors."""

from __future__ import annotations

import itertools
import json
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pytest_qemuvm.errors import (
    CommandBlocked,
    CommandError,
    CommandRejected,
    ConnectError,
    QmpError,
    QmpTimeout,
)
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.qmp.arguments import encoded_arguments, shown_arguments
from pytest_qemuvm.qmp.events import EventLog, EventWait, Match, Names
from pytest_qemuvm.qmp.inquiry import Inquiry
from pytest_qemuvm.qmp.names import checked_command
from pytest_qemuvm.qmp.passing import Turns
from pytest_qemuvm.qmp.policy import classify
from pytest_qemuvm.qmp.transcript import Transcript, shorten
from pytest_qemuvm.qmp.warden import Warden

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Mapping

    from pytest_qemuvm.host.loop import LoopThread
    from pytest_qemuvm.qmp.audit import Outcome
    from pytest_qemuvm.qmp.link import Link
    from pytest_qemuvm.qmp.outbox import Descriptors
    from pytest_qemuvm.qmp.policy import CommandClass
    from pytest_qemuvm.qmp.rewriting import Nodes

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
    arguments: Mapping[str, Any]
    class_: CommandClass
    id: str
    data: bytes
    """What goes over the wire."""
    started: float = field(default_factory=time.perf_counter)
    future: Future[Mapping[str, Any]] = field(default_factory=_running_future)
    abandoned: bool = False
    """Nobody waits for the answer any more."""
    noted: bool = False
    """Its outcome is in the audit."""
    aside: bool = False
    """A question of the harness itself, which would only hide in the transcript what the test did."""
    descriptors: Descriptors | None = None
    """What travels with the command."""

    @property
    def seconds(self) -> float:
        """How long ago it was asked for."""
        return time.perf_counter() - self.started


class Session:
    """One connection to one monitor, as both faces use it; every method may be called from any thread."""

    def __init__(
        self,
        loop: LoopThread,
        sock: socket.socket,
        *,
        death: Death | None,
        timeout: float,
        capacity: int,
        warden: Warden | None = None,
    ) -> None:
        self.loop = loop
        self.warden = warden or Warden()
        """Who judges what is to be sent, and has it noted."""
        self.events = EventLog(capacity)
        self.transcript = Transcript()
        self.turns = Turns()
        self._sock = sock
        self._death = death
        self._timeout = timeout
        self._ids = itertools.count(1)
        self.inquiry = Inquiry(self)
        """What QEMU is asked before a command can be judged."""
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
        allow_dangerous: bool = False,
        own: bool = False,
        aside: bool = False,
        descriptors: Descriptors | None = None,
        nodes: Nodes | None = None,
    ) -> Call:
        """Judge a command, send it and return at once: the one door through which every command goes.

        ``own`` is the harness's own doing, which is not judged; ``nodes`` is what ``inquire`` gave. Raises
        CommandRejected before a byte has been sent; what is not sent is noted here, and what is when its
        outcome is known.
        """
        call = self._judged(
            command, arguments, allow_dangerous=allow_dangerous, own=own, aside=aside, nodes=nodes
        )
        call.descriptors = descriptors
        self._send(call)
        return call

    def pose(self, questions: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Call]:
        """Send several questions of the harness's own in one packet, and return at once. Raises QmpError."""
        calls = [self._judged(command, arguments, own=True, aside=True) for command, arguments in questions]
        self._send(*calls)
        return calls

    def _send(self, *calls: Call) -> None:
        try:
            self.link.issue(*calls)
        except QmpError:
            for call in calls:
                self.note(call, "disconnected")
            raise

    def _judged(
        self,
        command: str,
        arguments: Mapping[str, Any] | None,
        *,
        allow_dangerous: bool = False,
        own: bool = False,
        aside: bool = False,
        nodes: Nodes | None = None,
    ) -> Call:
        """Return a command that may be sent, and have it in the log and the transcript; see ``perform``."""
        begun = time.perf_counter()
        given: Any = {} if arguments is None else arguments
        try:
            checked_command(command)
            encoded = encoded_arguments(command, given)
            if not (own or allow_dangerous):
                self.warden.admit(command, given)
            if not own:
                self.warden.check(command, given)
            if not (own or allow_dangerous):
                self.warden.admit_rewriting(command, given, nodes)
        except (CommandRejected, Warning) as error:
            self._refused(str(command), given, time.perf_counter() - begun, error)
            raise
        entry = classify(command)
        if entry.disruptive or entry.class_ == "memory-dump":
            self.warden.log(command, entry, given, own=own)
        call_id = str(next(self._ids))
        # QEMU reads each byte by a system call of its own, in 2 us: what says nothing is left out.
        said = f',"arguments":{encoded}' if given else ""
        data = f'{{"execute":"{command}"{said},"id":"{call_id}"}}'.encode()
        call = Call(command, given, entry.class_, call_id, data, started=begun, aside=aside)
        if not aside:
            shown = shown_arguments(command, given)
            self.transcript.sent(
                call_id, command, encoded if shown is given else json.dumps(shown, ensure_ascii=False)
            )
        return call

    def _refused(self, command: str, arguments: object, seconds: float, error: Exception) -> None:
        outcome: Outcome = "blocked" if isinstance(error, CommandBlocked) else "invalid"
        brief = error.brief if isinstance(error, QmpError) else str(error)
        self.transcript.refused(command, brief)
        self.warden.note(command, arguments, classify(command).class_, seconds, outcome)

    def note(self, call: Call, outcome: Outcome) -> None:
        """Have a call's outcome written into the audit; only the first that is said of it counts."""
        if not call.noted:
            call.noted = True
            self.warden.note(call.command, call.arguments, call.class_, call.seconds, outcome)

    def value(self, call: Call, reply: Mapping[str, Any]) -> Any:
        """Return what the reply carries. Raises CommandError where it is QEMU's refusal."""
        try:
            returned = reply["return"]
        except KeyError:
            self.note(call, "error")
        else:
            self.note(call, "ok")
            return returned
        error = reply.get("error")
        class_, desc = (error.get("class"), error.get("desc")) if isinstance(error, dict) else (None, None)
        if not (isinstance(class_, str) and isinstance(desc, str)):
            raise QmpError(f"the reply to {call.command} is not a QMP reply", shorten(repr(reply)))
        shown = dict(shown_arguments(call.command, call.arguments))
        raise CommandError(
            f"QEMU refused {call.command}: {desc}",
            f"error class: {class_}\narguments: {shorten(repr(shown))}",
            class_=class_,
            desc=desc,
        )

    def leave(self, call: Call) -> None:
        """Have nobody wait for a reply, and its outcome noted when it comes."""

        def settle(_future: object) -> None:
            if call.future.exception() is not None:
                self.note(call, "disconnected")
            else:
                self.note(call, "ok" if "return" in call.future.result() else "error")

        self.abandon(call, noted=False)
        call.future.add_done_callback(settle)

    def abandon(self, call: Call, *, noted: bool = True) -> None:
        """Wait for the reply no longer; if it comes after all, it is dropped."""
        call.abandoned = True
        if noted:
            self.note(call, "timeout")
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
