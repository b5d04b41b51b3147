"""What QEMU has to be asked before a command can be judged: its schema, a device's properties, its graph."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import CommandRejected, QmpDisconnected, QmpTimeout
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.qmp.arguments import encoded_arguments
from pytest_qemuvm.qmp.names import checked_command
from pytest_qemuvm.qmp.policy import classify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_qemuvm.qmp.audit import Outcome
    from pytest_qemuvm.qmp.devices import Ask
    from pytest_qemuvm.qmp.rewriting import Nodes
    from pytest_qemuvm.qmp.session import Call, Session, Timeout

SCHEMA_SECONDS = 5.0
"""For QEMU's reply to ``query-qmp-schema``, which takes 20 ms; beside the time of the first command."""


class Inquiry:
    """The questions of one connection; the faces put them, because only they know how to wait."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._asked_in_vain = False
        """QEMU did not say in time what its schema is."""

    def must_learn(
        self, command: str, arguments: Mapping[str, Any] | None, *, allow_dangerous: bool, own: bool
    ) -> bool:
        """Return whether QEMU must be asked for its schema before this command can be judged.

        Not for one that is refused in any case: of that not a byte is sent. Nor after QEMU was asked in vain.
        """
        schemas = self._session.warden.schemas
        if own or schemas is None or schemas.settled or self._asked_in_vain or not self._session.connected:
            return False
        if self._is_refused(command, arguments, allow_dangerous=allow_dangerous):
            return False
        return not schemas.load()

    def must_ask(
        self, command: str, arguments: Mapping[str, Any] | None, *, allow_dangerous: bool, own: bool
    ) -> bool:
        """Return whether QEMU must be asked something else before this command can be judged: ``inquire``."""
        if own or not self._session.warden.must_ask(command) or not self._session.connected:
            return False
        if command != "device_add" and (allow_dangerous or command in self._session.warden.permitted()):
            return False
        return not self._is_refused(command, arguments, allow_dangerous=allow_dangerous)

    def _is_refused(
        self, command: str, arguments: Mapping[str, Any] | None, *, allow_dangerous: bool
    ) -> bool:
        given: Any = {} if arguments is None else arguments
        try:
            encoded_arguments(checked_command(command), given)
            if not allow_dangerous:
                self._session.warden.admit(command, given)
            self._session.warden.check(command, given, remark=False)
        except CommandRejected:
            return True
        return False

    def inquire(self, command: str, arguments: Mapping[str, Any] | None, ask: Ask) -> Nodes | None:
        """Ask QEMU what must be known to judge a command, and return what ``perform`` wants of that.

        Raises QmpTimeout and QmpDisconnected where QEMU does not answer; the command is not sent then.
        """
        begun = time.perf_counter()
        given: Any = {} if arguments is None else arguments
        try:
            return self._session.warden.inquire(command, given, ask)
        except (QmpTimeout, QmpDisconnected) as error:
            outcome: Outcome = "timeout" if isinstance(error, QmpTimeout) else "disconnected"
            self._session.transcript.refused(command, error.brief)
            seconds = time.perf_counter() - begun
            self._session.warden.note(command, given, classify(command).class_, seconds, outcome)
            raise

    def ask_for_schema(self, timeout: Timeout) -> tuple[Call, Deadline]:
        """Ask QEMU for its schema; its reply, due at that deadline, is for ``learn``.

        The time for it is its own, and not taken from that of the command that is to be compared with it:
        who sends that cannot know that it is the first. Only a deadline that is running already holds.
        """
        call = self._session.perform("query-qmp-schema", None, own=True, aside=True)
        granted = timeout.remaining if isinstance(timeout, Deadline) else SCHEMA_SECONDS
        return call, Deadline.after(min(SCHEMA_SECONDS, granted))

    def learn_late(self, call: Call) -> None:
        """Ask no more, and take QEMU's schema if its reply comes after all."""
        self._asked_in_vain = True

        def take(_future: object) -> None:
            if call.future.exception() is None and self._session.warden.schemas is not None:
                self._session.warden.schemas.learn(call.future.result().get("return"))

        call.future.add_done_callback(take)

    def learn(self, call: Call, reply: Mapping[str, Any]) -> None:
        """Take QEMU's schema from its reply."""
        assert self._session.warden.schemas is not None
        self._session.note(call, "ok" if "return" in reply else "error")
        self._session.warden.schemas.learn(reply.get("return"))
