"""The loop's side of a connection: its life from greeting to end, and who waits for which reply."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import ConnectError, QmpDisconnected, QmpError
from pytest_qemuvm.qmp.transcript import shorten
from pytest_qemuvm.qmp.wire import Wire

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.host.loop import LoopThread, Watch
    from pytest_qemuvm.qmp.events import EventLog
    from pytest_qemuvm.qmp.session import Call, Death
    from pytest_qemuvm.qmp.transcript import Transcript

_LAST_BREATH = 1.0
"""Seconds granted between the end of file and the end of the process. A dying QEMU takes well under a
millisecond; one that still lives after this has only closed its monitor."""


class Link:
    """A connection as the loop sees it: methods other than ``issue`` run on its thread.

    ``ending`` makes the error for whoever comes after the end; it is None as long as the connection lasts.
    """

    def __init__(
        self, loop: LoopThread, death: Death | None, events: EventLog, transcript: Transcript
    ) -> None:
        self.greeting: dict[str, Any] = {}
        self.ending: Callable[[], QmpDisconnected] | None = None
        self._loop = loop
        self._death = death
        self._events = events
        self._transcript = transcript
        self._dead = asyncio.Event()
        self._closing = False
        # Holds sending, and who expects a reply, together.
        self._lock = threading.Lock()
        # In the order of sending, which is the order in which QEMU answers.
        self._calls: dict[str, Call] = {}
        self._wire: Wire | None = None
        self._watch: Watch | None = None
        self._life: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """True while commands can be sent."""
        return self._life is not None and self.ending is None

    async def connect(self, sock: socket.socket, deadline: Deadline) -> None:
        """Await the greeting and negotiate; the socket is ours from here on.

        Raises ConnectError where nothing or nonsense arrives in time, QmpDisconnected where QEMU died.
        """
        try:
            self._wire = Wire(sock, on_event=self._on_event, on_reply=self._on_reply)
        except OSError as error:
            raise ConnectError("no socket to talk QMP over", str(error)) from error
        try:
            if self._death is not None:
                self._watch = self._loop.watch(self._death.fileno(), self._on_death)
            self.greeting = await self._greeted(self._wire, deadline)
        except ConnectError as error:
            await self._dies_within(min(deadline.remaining, _LAST_BREATH))
            self._finish(error)
            if self._dead.is_set():
                assert self.ending is not None
                raise self.ending() from error
            raise
        except BaseException as error:
            self._finish(error)
            raise
        self._life = asyncio.create_task(self._live(self._wire))

    def issue(self, *calls: Call) -> None:
        """Send commands in one packet and expect their replies; from any thread.

        One that carries descriptors is sent by itself.

        Raises QmpDisconnected where the connection has ended, ConnectError where it has not begun.
        """
        with self._lock:
            if self.ending is not None:
                raise self.ending()
            if self._wire is None or self._life is None:
                raise ConnectError("not connected yet", hint="call connect() first")
            passed = calls[0].descriptors if len(calls) == 1 else None
            if passed is not None and not self._wire.passes_descriptors:
                raise QmpError("descriptors can be passed over a unix socket only")
            for call in calls:
                self._calls[call.id] = call
            try:
                self._wire.send(b"\n".join([call.data for call in calls]), passed)
            finally:
                # Those that were not handed over are nobody's now, also if no reply ever comes.
                calls[0].descriptors = None

    async def close(self) -> None:
        """End the connection and everybody's wait on it; returns when nothing of it is left. Idempotent."""
        self._closing = True
        if self._wire is not None:
            self._wire.hang_up()
        if self._life is not None:
            await asyncio.wait([self._life])

    async def _greeted(self, wire: Wire, deadline: Deadline) -> dict[str, Any]:
        try:
            async with asyncio.timeout(deadline.remaining):
                return await wire.open()
        except TimeoutError:
            raise ConnectError(
                f"no QMP greeting within {deadline.seconds:g} s",
                hint="is this a QMP monitor? One that has a client already greets no second one",
            ) from None

    async def _live(self, wire: Wire) -> None:
        """Last as long as the connection, then end everybody's wait."""
        reason: BaseException | None = None
        try:
            reason = await wire.ended()
            if isinstance(reason, (EOFError, OSError)) and not self._closing:
                await self._dies_within(_LAST_BREATH)
        finally:
            self._finish(reason)

    async def _dies_within(self, seconds: float) -> None:
        """Wait for QEMU's death, if there is a QEMU of ours, but no longer than that."""
        if self._death is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._dead.wait()

    def _on_death(self) -> None:
        self._dead.set()
        # Whoever may still hold QEMU's end of the socket, nothing more will come from it.
        if self._wire is not None:
            self._wire.hang_up()

    def _on_event(self, message: Mapping[str, Any]) -> None:
        name, data, stamp = message["event"], message.get("data", {}), message.get("timestamp", {})
        if not (isinstance(name, str) and isinstance(data, dict) and isinstance(stamp, dict)):
            raise QmpError("not a QMP event", shorten(repr(message)))
        seconds, micros = stamp.get("seconds", 0), stamp.get("microseconds", 0)
        if not (isinstance(seconds, int) and isinstance(micros, int)):
            raise QmpError("not a QMP event", shorten(repr(message)))
        self._transcript.event(self._events.append(name, data, seconds + micros / 1e6))

    def _on_reply(self, message: Mapping[str, Any], raw: bytes) -> None:
        call_id = message.get("id")
        if call_id is None and "error" in message:
            # QEMU could not even parse what it was sent. It answers in order: this is for the oldest call.
            if not self._calls:
                raise QmpError("the monitor complains of what was never sent", shorten(repr(raw)))
            call_id = next(iter(self._calls))
        with self._lock:
            call = self._calls.pop(call_id, None) if isinstance(call_id, str) else None
        if call is None:
            self._transcript.stray(raw)
            return
        if not call.aside:
            self._transcript.answered(call.id, call.command, raw, call.seconds)
        call.future.set_result(message)

    def _finish(self, reason: BaseException | None) -> None:
        """Fail everybody who waits, and everybody who will, with what is known about the end."""
        ending = self._explain(reason)
        with self._lock:
            self.ending = ending
            calls, self._calls = self._calls, {}
        if self._watch is not None:
            self._watch.cancel()
        for call in calls.values():
            error = ending()
            if not (call.abandoned or call.aside):
                self._transcript.unanswered(call.id, call.command, error.brief, call.seconds)
            call.future.set_exception(error)
        self._events.end(ending)

    def _explain(self, reason: BaseException | None) -> Callable[[], QmpDisconnected]:
        status, log, details = None, "", None
        if self._death is not None:
            log = self._death.log_tail()
        if self._dead.is_set() and self._death is not None:
            status = self._death.status()
            brief = "QEMU ended" if status is None else f"QEMU ended with status {status}"
        elif self._closing or reason is None:
            brief = "the QMP connection has been closed"
        elif isinstance(reason, (EOFError, OSError)):
            brief = "QEMU's monitor hung up"
        else:
            brief, details = "the QMP connection broke", shorten(f"{type(reason).__name__}: {reason}")
        return partial(QmpDisconnected, brief, details, status=status, log=log)
