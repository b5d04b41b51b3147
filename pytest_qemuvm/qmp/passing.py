"""Handing descriptors to QEMU: one after the other, whatever threads and interruptions there are."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Protocol

from pytest_qemuvm.errors import CommandError, QmpTimeout, SpecError
from pytest_qemuvm.qmp.outbox import Descriptors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.qmp.client import Qmp
    from pytest_qemuvm.qmp.session import Session


class HasFileno(Protocol):
    """An open file, socket or the like."""

    def fileno(self) -> int:
        """Return its descriptor."""


class Turns:
    """Whose turn it is to hand over. A monitor keeps the descriptors that it read last, and no others.

    It reads ahead of what it carries out: those of a second command would take the place of the first's.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.unanswered = False
        """True from before a command is sent until its answer is there; an interruption leaves it true."""


def hand_over(
    qmp: Qmp,
    session: Session,
    fd: int | HasFileno,
    command: str,
    arguments: Mapping[str, Any],
    deadline: Deadline,
    *,
    own: bool = False,
) -> Any:
    """Hand over a descriptor by a command, ``add-fd`` or ``getfd``, and return what QEMU says to it."""
    try:
        passed = Descriptors([fd if isinstance(fd, int) else fd.fileno()])
    except (OSError, ValueError, OverflowError) as error:
        raise SpecError(f"{fd!r} is no descriptor that is open", str(error)) from error
    turns = session.turns
    taken: list[bool] = []
    try:
        # One call into C both takes the lock and notes it: no signal handler runs in between.
        taken.extend(map(turns.lock.acquire, (True,), (deadline.remaining,)))
        if taken == [False]:
            raise QmpTimeout(
                f"another thread has been handing over a descriptor for {deadline.seconds:g} s",
                waited_for="the turn to hand over a descriptor",
                seconds=deadline.seconds,
            )
        if turns.unanswered:
            # QEMU answers in order: with this answer the one that nobody saw has been given as well.
            qmp.inspect([("query-version", {})], deadline)
        turns.unanswered = True
        call = session.perform(command, arguments, own=own, descriptors=passed)
        try:
            answer = qmp.answer(call, deadline)
        except CommandError:
            turns.unanswered = False
            raise
        turns.unanswered = False
        return answer
    finally:
        if taken == [True]:
            turns.lock.release()
