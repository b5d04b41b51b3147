"""Waiting for a job of QEMU's: to its end, or until it is ready, with its progress told on the way.

What is to be asked and awaited is decided here, once for both faces: a generator yields it and is sent what
came of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from pytest_qemuvm.errors import CommandError, JobFailed, JobNotFound, QmpTimeout, SpecError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.qmp.client import Qmp
    from pytest_qemuvm.qmp.events import Event, EventLog

WhenReady = Literal["complete", "cancel", "leave"]
"""What is done with a job that has become ready, such as a mirror: let it switch over, let it end where it
is, or leave it running and come back."""

Progress = Callable[[float], object]

INTERVAL = 0.1
"""Seconds between two looks at a job's progress, which QEMU announces by no event."""

JOB_EVENTS = ("JOB_STATUS_CHANGE", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED", "BLOCK_JOB_ERROR")


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it was seen last."""

    id: str
    type: str
    """QEMU's word: ``backup``, ``mirror``, ``create``...; empty where it had gone before anybody looked."""
    status: str
    """``concluded``, or ``ready`` where it was left so."""
    current: int
    """How much has been done, in units of the job's own, mostly bytes."""
    total: int

    @property
    def percent(self) -> float:
        """How far it is; 100 where it has succeeded."""
        if self.status == "concluded":
            return 100.0
        return min(100.0, 100.0 * self.current / self.total) if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Ask:
    """To be run; what comes back is the return value, or QEMU's CommandError."""

    command: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Await:
    """An event about the job that is newer than a number; what comes back means nothing."""

    since: int
    seconds: float | None
    """Come back after this time in any case; None: only with an event."""

    def until(self, deadline: Deadline) -> Deadline:
        """Return when to come back at the latest."""
        return deadline if self.seconds is None else deadline.sooner(self.seconds)


_AT_READY: Mapping[WhenReady, Callable[[str], Ask]] = {
    "complete": lambda job: Ask("job-complete", {"id": job}),
    # Unlike job-cancel this lets a ready job end well, with a copy that is whole.
    "cancel": lambda job: Ask("block-job-cancel", {"device": job}),
}

Steps = Generator[Ask | Await, Any, Job]


def follow(job: str, log: EventLog, when_ready: WhenReady, progress: Progress | None) -> Steps:
    """Follow a job to its end; whoever drives this has the deadline.

    Raises JobNotFound and JobFailed, and SpecError for what nobody can do with a ready job.
    """
    if when_ready not in get_args(WhenReady):
        hint = nearest(when_ready, get_args(WhenReady))
        raise SpecError(f"{when_ready!r} is nothing to do with a job", hint=hint)
    seen = Job(job, "", "", 0, 0)
    told = False
    while True:
        since = log.last
        jobs = yield Ask("query-jobs", {})
        entry = next((each for each in jobs if each["id"] == job), None)
        if entry is None:
            return _gone(seen, log, jobs, progress)
        current, total = entry["current-progress"], entry["total-progress"]
        seen = Job(job, entry["type"], entry["status"], current, total)
        if seen.status == "concluded":
            # It stays until somebody has taken note. Whoever comes first does so; it is gone then as well.
            yield Ask("job-dismiss", {"id": job})
            return _ended(seen, entry.get("error"), log, progress)
        if progress is not None:
            progress(seen.percent)
        if seen.status == "ready" and when_ready == "leave":
            return seen
        # What is ready is told so once: it may stay ready for a while.
        yield from _act(seen, None if told else when_ready)
        told = told or seen.status == "ready"
        yield Await(since, INTERVAL if progress is not None else None)


def _act(seen: Job, when_ready: WhenReady | None) -> Generator[Ask, Any, None]:
    """Do what a job waits for, if it waits for something."""
    if seen.status == "ready" and when_ready is not None:
        yield from _tell(seen.id, _AT_READY[when_ready](seen.id))
    elif seen.status == "pending":
        yield from _tell(seen.id, Ask("job-finalize", {"id": seen.id}))
    elif seen.status == "paused":
        yield from _check_not_stopped(seen.id)


def _tell(job: str, what: Ask) -> Generator[Ask, Any, None]:
    """Tell a job something; that it has gone on by itself in the meantime is no error."""
    answer = yield what
    if isinstance(answer, CommandError):
        jobs = yield Ask("query-jobs", {})
        if any(each["id"] == job and each["status"] in ("ready", "pending") for each in jobs):
            raise answer


def _check_not_stopped(job: str) -> Generator[Ask, Any, None]:
    """Raise JobFailed where QEMU has stopped the job because of an I/O error: nobody will resume it."""
    for entry in (yield Ask("query-block-jobs", {})):
        if entry["device"] == job and entry["io-status"] != "ok":
            raise JobFailed(
                f"the job {job!r} was stopped by an I/O error",
                f"io-status: {entry['io-status']}",
                "resume it by block-job-resume when the cause is gone, or cancel it",
                job=job,
                error=entry["io-status"],
                stopped=True,
            )


def _gone(seen: Job, log: EventLog, jobs: Sequence[Mapping[str, Any]], progress: Progress | None) -> Job:
    """Return how a job ended that QEMU has forgotten already, as those of block devices are by default."""
    events = _last_run(seen.id, log)
    if not events:
        known = [each["id"] for each in jobs]
        raise JobNotFound(f"QEMU has no job {seen.id!r}", hint=nearest(seen.id, known) if known else None)
    last = next((event for event in reversed(events) if event.name == "BLOCK_JOB_COMPLETED"), None)
    error = None
    if last is not None:
        error = last.data.get("error")
        length = int(last.data["len"])
        seen = Job(
            seen.id, seen.type or str(last.data["type"]), seen.status, int(last.data["offset"]), length
        )
    elif any(event.data.get("status") == "aborting" for event in events):
        error = "it was aborted"
    return _ended(seen, error, log, progress)


def _ended(seen: Job, error: str | None, log: EventLog, progress: Progress | None) -> Job:
    """Return the job if it has succeeded, else raise JobFailed."""
    events = _last_run(seen.id, log)
    cancelled = any(event.name == "BLOCK_JOB_CANCELLED" for event in events)
    if cancelled or error is not None:
        said = [f"{event.seq} {event.name} {event.data}" for event in events]
        raise JobFailed(
            f"the job {seen.id!r} was cancelled" if cancelled else f"the job {seen.id!r} failed: {error}",
            "\n".join(["its last events:", *said[-6:]]),
            job=seen.id,
            error=error or "cancelled",
            cancelled=cancelled,
        )
    if progress is not None:
        progress(100.0)
    return Job(seen.id, seen.type, "concluded", seen.current, seen.total)


def _last_run(job: str, log: EventLog) -> list[Event]:
    """Return the events of the newest job of that id: an id may be used again."""
    events: list[Event] = []
    for event in log:
        if concerns(event.data, job) and event.name in JOB_EVENTS:
            if event.data.get("status") == "created":
                events = []
            events.append(event)
    return events


def concerns(data: Mapping[str, Any], job: str) -> bool:
    """Return whether an event's data is about a job."""
    return job in (data.get("id"), data.get("device"))


def wait_for(qmp: Qmp, job: str, steps: Steps, deadline: Deadline) -> Job:
    """Do the steps one after the other, and return the job."""
    answer: Any = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as end:
            return cast("Job", end.value)
        if isinstance(step, Ask):
            try:
                answer = qmp.execute(step.command, step.arguments, timeout=deadline)
            except CommandError as error:
                answer = error
        else:
            try:
                qmp.wait_event(JOB_EVENTS, partial(concerns, job=job), step.since, step.until(deadline))
            except QmpTimeout:
                if deadline.expired:
                    raise unfinished(job, qmp.events, deadline) from None


def unfinished(job: str, log: EventLog, deadline: Deadline) -> QmpTimeout:
    """Return the error that says that a job has not come to its end in time."""
    said = [f"{event.seq} {event.name} {event.data}" for event in _last_run(job, log)][-6:]
    return QmpTimeout(
        f"the job {job!r} has not ended within {deadline.seconds:g} s",
        "\n".join(["it goes on; its last events:", *(said or ["(none)"])]),
        waited_for=f"the job {job}",
        seconds=deadline.seconds,
    )
