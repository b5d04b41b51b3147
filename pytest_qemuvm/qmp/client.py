"""The synchronous face of a monitor: what ``vm.qmp`` is."""

from __future__ import annotations

import copy
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from pytest_qemuvm.errors import QmpError, QmpTimeout
from pytest_qemuvm.host.loop import LoopThread
from pytest_qemuvm.qmp.events import CAPACITY, Event, EventLog, EventWait, Match, Names
from pytest_qemuvm.qmp.jobs import Job, Progress, WhenReady, follow, wait_for
from pytest_qemuvm.qmp.passing import HasFileno, hand_over
from pytest_qemuvm.qmp.session import DEFAULT_TIMEOUT, Call, Death, Session, Timeout
from pytest_qemuvm.qmp.warden import Warden

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.qmp.aio import AsyncQmp
    from pytest_qemuvm.qmp.schema import Schema


class ExpectedEvent:
    """What ``expect_event`` yields: ``event`` is known once the block has been left."""

    def __init__(self) -> None:
        self._event: Event | None = None

    @property
    def event(self) -> Event:
        """The event that came. Raises QmpError inside the block, where it is not known yet."""
        if self._event is None:
            raise QmpError("the expected event is not known before the block has been left")
        return self._event

    def fulfil(self, event: Event) -> Event:
        """Set the event; for whoever made this object."""
        self._event = event
        return event


class Qmp:
    """One connection to one monitor; every method may be called from any thread and inside any running loop.

    Every wait has a deadline (QmpTimeout) and ends at once when QEMU does (QmpDisconnected). After a time-out
    or an interrupted wait the connection stays usable.

    ``sock`` is connected to the monitor and belongs to this object from now on; ``death`` tells how QEMU
    ended, None where the peer is no child of ours; ``timeout`` is the default of every wait, in seconds;
    ``capacity`` bounds the event log; ``warden`` judges commands and has them noted.
    """

    def __init__(
        self,
        loop: LoopThread,
        sock: socket.socket,
        *,
        death: Death | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        capacity: int = CAPACITY,
        warden: Warden | None = None,
    ) -> None:
        self._session = Session(
            loop, sock, death=death, timeout=timeout, capacity=capacity, warden=warden or Warden()
        )
        self._aio: AsyncQmp | None = None
        self._own = False
        """Whether this is the harness's own face of the connection."""

    def for_harness(self) -> Qmp:
        """Return another face of the same connection: what is sent by it is the harness's own doing.

        It is not judged, because the harness answers for it, and logged for debugging only. Transcript and
        audit have it all the same.
        """
        face = copy.copy(self)
        face._aio, face._own = None, True  # noqa: SLF001  # a copy of itself
        return face

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def connect(self, timeout: Timeout = None) -> None:
        """Await QEMU's greeting and negotiate.

        Raises ConnectError where no greeting or something else arrives in time, and QmpDisconnected with exit
        status and log where QEMU died meanwhile.
        """
        self._session.connect(self._session.deadline(timeout))

    def close(self) -> None:
        """Hang up; every wait that is still going on ends with QmpDisconnected. Idempotent."""
        self._session.close()

    @property
    def connected(self) -> bool:
        """True from a successful ``connect`` to the end of the connection, whoever ended it."""
        return self._session.connected

    @property
    def greeting(self) -> dict[str, Any]:
        """What QEMU introduced itself with: ``version`` and ``capabilities``."""
        return self._session.link.greeting

    @property
    def events(self) -> EventLog:
        """All events since the connection was made, numbered."""
        return self._session.events

    @property
    def aio(self) -> AsyncQmp:
        """The same connection for coroutines, in whatever loop they run."""
        if self._aio is None:
            from pytest_qemuvm.qmp.aio import AsyncQmp  # noqa: PLC0415  # brings in asyncio

            self._aio = AsyncQmp(self._session, self.add_fd, self.inspect, own=self._own)
        return self._aio

    @property
    def audit_path(self) -> Path | None:
        """The audit of the session: a line of JSON for each command; None where nobody keeps one."""
        audit = self._session.warden.audit
        return audit.path if audit is not None else None

    @property
    def schema(self) -> Schema | None:
        """The commands that the running QEMU has, with their arguments, asked for if nobody has yet.

        None where QEMU does not say, and for a client of your own. Each call is compared with it.
        """
        schemas = self._session.warden.schemas
        if schemas is None:
            return None
        if not schemas.load():
            self._learn()
        return schemas.schema

    def transcript(self) -> list[str]:
        """Return the last commands, replies and events, a line each, oldest first."""
        return self._session.transcript.lines()

    def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: Timeout = None,
        allow_dangerous: bool = False,
    ) -> Any:
        """Run a QMP command and return its return value.

        Raises CommandError when QEMU refuses, QmpTimeout when there is no reply in time (the outcome is then
        unknown), QmpDisconnected when QEMU or the connection ends. Events that QEMU sent before its reply are
        in ``events`` when this returns. The first command of all to a QEMU binary may take up to five seconds
        more, in which QEMU says what its commands are.

        Before anything is sent it raises CommandRejected: InvalidCommandName, UnknownCommand,
        InvalidArguments, and CommandBlocked for what runs programs of the host or reaches outside the VM;
        ``allow_dangerous`` lifts that last one.
        """
        session = self._session
        session.loop.refuse_own_thread()
        if session.inquiry.must_learn(command, arguments, allow_dangerous=allow_dangerous, own=self._own):
            self._learn(timeout)
        deadline, nodes = session.deadline(timeout), None
        if session.inquiry.must_ask(command, arguments, allow_dangerous=allow_dangerous, own=self._own):
            nodes = session.inquiry.inquire(command, arguments, partial(self.inspect, timeout=deadline))
        call = session.perform(
            command, arguments, allow_dangerous=allow_dangerous, own=self._own, nodes=nodes
        )
        return self.answer(call, deadline)

    def _learn(self, timeout: Timeout = None) -> None:
        """Have QEMU's schema known; where QEMU does not answer, that is the next command's own to say."""
        session = self._session
        assert session.warden.schemas is not None
        with session.warden.schemas.asking:
            if session.warden.schemas.settled:
                return
            with suppress(QmpError):
                call, deadline = session.inquiry.ask_for_schema(timeout)
                try:
                    session.inquiry.learn(call, self._reply(call, deadline))
                except QmpTimeout:
                    session.inquiry.learn_late(call)

    def inspect(
        self, questions: Iterable[tuple[str, Mapping[str, Any]]], timeout: Timeout = None
    ) -> list[Any]:
        """Ask several questions at once and return their answers; the transcript does not show them.

        For whoever observes a machine without wanting to be seen. Raises as ``execute`` does.
        """
        return self.answers(self.pose(questions), timeout)

    def pose(self, questions: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Call]:
        """Do the first half of ``inspect``: ask, and do not wait. The other half is ``answers``."""
        self._session.loop.refuse_own_thread()
        return self._session.pose(questions)

    def answers(self, calls: Sequence[Call], timeout: Timeout = None) -> list[Any]:
        """Return the answers to questions that were posed. Raises as ``execute`` does."""
        deadline = self._session.deadline(timeout)
        try:
            # QEMU answers in order: who waits for the last answer is woken once, and then has all of them.
            return [self.answer(call, deadline) for call in reversed(calls)][::-1]
        except BaseException:
            for call in calls:
                self._session.leave(call)
            raise

    def answer(self, call: Call, deadline: Deadline) -> Any:
        """Await the reply to a command that was sent, and return its value; for the helpers here."""
        return self._session.value(call, self._reply(call, deadline))

    def _reply(self, call: Call, deadline: Deadline) -> Mapping[str, Any]:
        try:
            return call.future.result(deadline.remaining)
        except TimeoutError:
            raise self._session.overdue(call, deadline) from None
        except QmpError:
            self._session.note(call, "disconnected")
            raise
        except BaseException:
            self._session.abandon(call)
            raise

    def add_fd(
        self,
        fd: int | HasFileno,
        *,
        fdset_id: int | None = None,
        opaque: str | None = None,
        timeout: Timeout = None,
    ) -> int:
        """Hand QEMU a duplicate of an open descriptor and return the id of its set: ``/dev/fdset/<id>``.

        ``fd`` is a number or has ``fileno()``, and stays the caller's. QEMU can open it only in the mode that
        it has. ``fdset_id`` adds it to that set instead of a new one; ``opaque`` is for ``query-fdsets`` to
        show. The set stays until ``remove-fd``. Raises SpecError for what is no open descriptor, and as
        ``execute`` does.
        """
        self._session.loop.refuse_own_thread()
        given = {"fdset-id": fdset_id, "opaque": opaque}
        arguments = {name: value for name, value in given.items() if value is not None}
        answer = hand_over(self, self._session, fd, "add-fd", arguments, self._session.deadline(timeout))
        return int(answer["fdset-id"])

    def name_fd(self, name: str, fd: int | HasFileno, *, timeout: Timeout = None) -> None:
        """Hand QEMU a duplicate of an open descriptor under a name, as ``migrate`` takes it: ``fd:<name>``.

        ``fd`` stays the caller's; QEMU's lasts until it is used, or ``closefd``. Raises as ``add_fd`` does.
        """
        self._session.loop.refuse_own_thread()
        deadline = self._session.deadline(timeout)
        hand_over(self, self._session, fd, "getfd", {"fdname": name}, deadline, own=self._own)

    def job(
        self,
        id: str,  # noqa: A002  # QEMU's word
        *,
        when_ready: WhenReady = "complete",
        progress: Progress | None = None,
        timeout: Timeout = None,
    ) -> Job:
        """Wait until a job has ended, and return it as it was then; it is dismissed.

        A job that becomes ready, such as a mirror, is told to ``complete``, or to ``cancel``, which leaves
        the copy whole and the VM where it was; with ``leave`` this returns then. ``progress`` is called with
        a percentage ten times a second, and with 100.0 at a good end. Jobs that have ended since the
        connection was made are known too. Raises JobFailed, JobNotFound, QmpTimeout, after which the job goes
        on, and QmpDisconnected.
        """
        steps = follow(id, self.events, when_ready, progress)
        return wait_for(self, id, steps, self._session.deadline(timeout))

    def post(self, command: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Send a command and wait for nothing; its outcome shows in transcript and audit only.

        For callbacks on the loop's own thread, which must not wait.
        """
        self._session.leave(self._session.perform(command, arguments, own=self._own))

    def wait_event(
        self, name: Names, match: Match | None = None, since: int | None = None, timeout: Timeout = None
    ) -> Event:
        """Return the first event of that name (one of those names) that matches and is newer than ``since``.

        Without ``since`` it is the oldest in the log that no earlier wait of this kind and no
        ``expect_event`` has returned, else the next to come: an event that arrived a moment ago is not
        missed, and none is returned twice. Raises QmpTimeout and QmpDisconnected; what ``match`` raises comes
        through.
        """
        wait = self._session.events.wait(name, match, since)
        event = self._come(wait, name, match, self._session.deadline(timeout))
        if since is None:
            self._session.events.mark_returned(event)
        return event

    @contextmanager
    def expect_event(
        self, name: Names, match: Match | None = None, timeout: Timeout = None
    ) -> Iterator[ExpectedEvent]:
        """Wait, on leaving the block, for an event that comes after the block was entered.

        A ``timeout`` in seconds begins when the block is left. When the block raises, nothing is awaited.
        """
        log = self._session.events
        expected = ExpectedEvent()
        wait = log.wait(name, match, log.last)
        try:
            yield expected
            event = self._come(wait, name, match, self._session.deadline(timeout))
            log.mark_returned(expected.fulfil(event))
        finally:
            log.forget(wait)

    def _come(self, wait: EventWait, names: Names, match: Match | None, deadline: Deadline) -> Event:
        try:
            self._session.loop.refuse_own_thread()
            event = wait.result(deadline.remaining)
        except TimeoutError:
            if wait.done():  # the predicate's own
                raise
            raise self._session.missing(names, match, wait, deadline) from None
        finally:
            self._session.events.forget(wait)
        self._session.events.mark_shown(event)
        return event


class Client(Qmp):
    """A monitor that the harness itself is not connected to: a VM's second one, or a socket given."""

    _owned: tuple[Callable[[], object], ...] = ()

    @classmethod
    def from_socket(
        cls, sock: socket.socket, timeout: float = DEFAULT_TIMEOUT, *, loop: LoopThread | None = None
    ) -> Self:
        """Connect over a socket that is already connected to a monitor, and take it over.

        ``timeout``, in seconds, holds for the greeting and for each later wait that names none. ``loop`` is a
        loop thread to share; without it the client has its own. Raises ConnectError.
        """
        own = LoopThread() if loop is None else None
        client = cls(loop or own or LoopThread(), sock, timeout=timeout)
        if own is not None:
            client.take_over(own.close)
        try:
            client.connect()
        except BaseException:
            client.close()
            raise
        return client

    def close(self) -> None:
        """Hang up, and end the loop thread if it is the client's own. Idempotent."""
        super().close()
        owned, self._owned = self._owned, ()
        for end in owned:
            end()

    def take_over(self, *ends: Callable[[], object]) -> None:
        """Have these called when the client is closed: what it alone uses ends with it."""
        self._owned = (*self._owned, *ends)
