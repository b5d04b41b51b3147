"""The asynchronous face of a monitor: what ``vm.qmp.aio`` is, awaitable in any running asyncio loop."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from pytest_qemuvm.errors import CommandError, QmpError, QmpTimeout
from pytest_qemuvm.qmp.client import ExpectedEvent
from pytest_qemuvm.qmp.jobs import JOB_EVENTS, Ask, concerns, follow, unfinished

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.qmp.events import Event, EventLog, EventWait, Match, Names
    from pytest_qemuvm.qmp.jobs import Job, Progress, WhenReady
    from pytest_qemuvm.qmp.passing import HasFileno
    from pytest_qemuvm.qmp.session import Call, Session, Timeout


class AsyncQmp:
    """The same connection, log and errors as the synchronous face; cancelling a wait leaves it usable."""

    def __init__(
        self,
        session: Session,
        add_fd: Callable[..., int],
        inspect: Callable[..., list[Any]],
        *,
        own: bool = False,
    ) -> None:
        self._session = session
        self._add_fd = add_fd
        self._inspect = inspect
        self._own = own

    @property
    def events(self) -> EventLog:
        """All events since the connection was made, numbered."""
        return self._session.events

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: Timeout = None,  # noqa: ASYNC109  # the face is the same as the synchronous one
        allow_dangerous: bool = False,
    ) -> Any:
        """Run a QMP command and return its return value; see ``Qmp.execute``."""
        session = self._session
        if session.inquiry.must_learn(command, arguments, allow_dangerous=allow_dangerous, own=self._own):
            await self._learn(timeout)
        deadline, nodes = session.deadline(timeout), None
        if session.inquiry.must_ask(command, arguments, allow_dangerous=allow_dangerous, own=self._own):
            ask = partial(self._inspect, timeout=deadline)
            # On a thread: it is several questions, and may be another QEMU that is started to be asked.
            nodes = await asyncio.to_thread(session.inquiry.inquire, command, arguments, ask)
        call = session.perform(
            command, arguments, allow_dangerous=allow_dangerous, own=self._own, nodes=nodes
        )
        return session.value(call, await self._reply(call, deadline))

    async def _learn(self, timeout: Timeout) -> None:  # noqa: ASYNC109  # as above
        """Have QEMU's schema known; where QEMU does not answer, that is the command's own to say."""
        session = self._session
        with suppress(QmpError):
            call, deadline = session.inquiry.ask_for_schema(timeout)
            try:
                session.inquiry.learn(call, await self._reply(call, deadline))
            except QmpTimeout:
                session.inquiry.learn_late(call)

    async def _reply(self, call: Call, deadline: Deadline) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(deadline.remaining):
                return await asyncio.wrap_future(call.future)
        except TimeoutError:
            raise self._session.overdue(call, deadline) from None
        except asyncio.CancelledError:
            self._session.abandon(call)
            raise
        except QmpError:
            self._session.note(call, "disconnected")
            raise

    async def add_fd(
        self,
        fd: int | HasFileno,
        *,
        fdset_id: int | None = None,
        opaque: str | None = None,
        timeout: Timeout = None,  # noqa: ASYNC109  # as above
    ) -> int:
        """Hand QEMU a duplicate of an open descriptor; see ``Qmp.add_fd``.

        On a thread: it may have to wait for another thread that hands one over.
        """
        deadline = self._session.deadline(timeout)
        act = partial(self._add_fd, fd, fdset_id=fdset_id, opaque=opaque, timeout=deadline)
        return await asyncio.to_thread(act)

    async def job(
        self,
        id: str,  # noqa: A002  # QEMU's word
        *,
        when_ready: WhenReady = "complete",
        progress: Progress | None = None,
        timeout: Timeout = None,  # noqa: ASYNC109  # as above
    ) -> Job:
        """Wait until a job has ended; see ``Qmp.job``."""
        deadline = self._session.deadline(timeout)
        steps = follow(id, self.events, when_ready, progress)
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                return cast("Job", end.value)
            if isinstance(step, Ask):
                try:
                    answer = await self.execute(step.command, step.arguments, timeout=deadline)
                except CommandError as error:
                    answer = error
            else:
                about = partial(concerns, job=id)
                try:
                    await self.wait_event(JOB_EVENTS, about, step.since, step.until(deadline))
                except QmpTimeout:
                    if deadline.expired:
                        raise unfinished(id, self.events, deadline) from None

    async def wait_event(
        self,
        name: Names,
        match: Match | None = None,
        since: int | None = None,
        timeout: Timeout = None,  # noqa: ASYNC109  # as above
    ) -> Event:
        """Return the first event that fits; see ``Qmp.wait_event``."""
        wait = self._session.events.wait(name, match, since)
        event = await self._come(wait, name, match, self._session.deadline(timeout))
        if since is None:
            self._session.events.mark_returned(event)
        return event

    @asynccontextmanager
    async def expect_event(
        self,
        name: Names,
        match: Match | None = None,
        timeout: Timeout = None,  # noqa: ASYNC109  # as above
    ) -> AsyncIterator[ExpectedEvent]:
        """Wait, on leaving the block, for an event newer than its entering; see ``Qmp.expect_event``."""
        log = self._session.events
        expected = ExpectedEvent()
        wait = log.wait(name, match, log.last)
        try:
            yield expected
            event = await self._come(wait, name, match, self._session.deadline(timeout))
            log.mark_returned(expected.fulfil(event))
        finally:
            log.forget(wait)

    async def _come(self, wait: EventWait, names: Names, match: Match | None, deadline: Deadline) -> Event:
        try:
            async with asyncio.timeout(deadline.remaining):
                event = await asyncio.wrap_future(wait)
        except TimeoutError:
            if wait.done():  # the predicate's own
                raise
            raise self._session.missing(names, match, wait, deadline) from None
        finally:
            self._session.events.forget(wait)
        self._session.events.mark_shown(event)
        return event
