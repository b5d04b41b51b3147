"""Who stands at the door of a connection: judges what is to be sent, and has it noted."""

from __future__ import annotations

import logging
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import CommandError, InvalidArguments, QemuVMWarning
from pytest_qemuvm.qmp.policy import Places, judge, judge_rewriting
from pytest_qemuvm.qmp.rewriting import QUESTIONS, Nodes, reopens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_qemuvm.qmp.audit import AuditLog, Outcome
    from pytest_qemuvm.qmp.devices import Ask, KnownDevices
    from pytest_qemuvm.qmp.policy import CommandClass, Entry
    from pytest_qemuvm.qmp.schemas import SchemaSource

logger = logging.getLogger("pytest_qemuvm.qmp")

_CALLER = 5
"""Frames from the warning to whoever called a face's ``execute``."""


def _nothing() -> frozenset[str]:
    return frozenset()


def _nobody() -> str:
    return ""


@dataclass(slots=True)
class Warden:
    """What is known of the machine behind a connection, as far as it decides what may be sent to it.

    One that knows nothing, the default, judges names and the policy, and lets no path through.
    """

    vm: str = ""
    """Its name in the audit."""
    transport: str = "owner"
    """By which monitor: ``owner`` for that of the process that started the machine."""
    places: Places = field(default_factory=Places)
    permitted: Callable[[], frozenset[str]] = _nothing
    """Return the commands that the marks of the present test permit."""
    nodeid: Callable[[], str] = _nobody
    """Return on whose behalf something is done now."""
    schemas: SchemaSource | None = None
    audit: AuditLog | None = None
    devices: KnownDevices | None = None
    """What QEMU's devices are; without it, arguments of ``device_add`` are QEMU's to judge."""
    strict: bool = False
    """Refuse what QEMU calls deprecated."""

    def admit(self, command: str, arguments: Mapping[str, Any]) -> None:
        """Raise CommandBlocked for what may not be sent by everybody."""
        judge(command, arguments, self.places, self.permitted())

    def must_ask(self, command: object) -> bool:
        """Return whether QEMU has to be asked something before this command can be judged."""
        return isinstance(command, str) and (
            reopens(command) or (command == "device_add" and self.devices is not None)
        )

    def inquire(self, command: str, arguments: Mapping[str, Any], ask: Ask) -> Nodes | None:
        """Ask what has to be known to judge a command; what is to be handed to ``admit_rewriting``.

        Raises QmpError where QEMU does not answer.
        """
        if reopens(command):
            # Where QEMU says something else, nobody can tell.
            with suppress(CommandError, KeyError, TypeError):
                graph, named = ask(QUESTIONS)
                return Nodes(graph, named)
        driver = arguments.get("driver")
        if self.devices is not None and isinstance(driver, str):
            self.devices.learn(driver, ask)
        return None

    def admit_rewriting(self, command: str, arguments: Mapping[str, Any], nodes: Nodes | None) -> None:
        """Raise CommandBlocked for what would change an image that is not the VM's, named or not."""
        if reopens(command):
            judge_rewriting(command, arguments, nodes, self.places, self.permitted())

    def check(self, command: str, arguments: Mapping[str, Any], *, remark: bool = True) -> None:
        """Compare a call with the schema, where that is known. Raises UnknownCommand, InvalidArguments.

        Unless not to ``remark``, warns of what is deprecated, and of what is unstable if its name is silent.
        """
        schema = self.schemas.schema if self.schemas is not None else None
        if schema is None:
            return
        remarks = schema.check(command, arguments)
        for feature, path in remarks if remark else ():
            if feature == "deprecated" and self.strict:
                raise InvalidArguments(f"{path} is deprecated, and --qemu-strict refuses that", path=path)
            if feature == "deprecated" or not path.rpartition(".")[2].startswith("x-"):
                text = f"{command}: {path} is {feature} in this QEMU"
                warnings.warn(QemuVMWarning(text), stacklevel=_CALLER)
        if command == "device_add" and self.devices is not None:
            wrong = self.devices.wrong(arguments["driver"], arguments, strings=False)
            if wrong is not None:
                raise InvalidArguments(wrong.brief, hint=wrong.hint, path=f"arguments.{wrong.key}")

    def log(self, command: str, entry: Entry, arguments: Mapping[str, Any], *, own: bool) -> None:
        """Log what a test should find in its log; what the harness sends by itself only for debugging.

        Arguments are named without their values.
        """
        if entry.class_ == "memory-dump":
            level, what = logging.INFO, "memory dump: "
        elif entry.disruptive:
            level, what = logging.WARNING, ""
        else:
            return
        level = logging.DEBUG if own else level
        if logger.isEnabledFor(level):
            named = ", ".join(str(key) for key in arguments)
            logger.log(level, "%s%s(%s) on VM %s: %s", what, command, named, self.vm, entry.reason)

    def note(
        self, command: str, arguments: object, class_: CommandClass, seconds: float, outcome: Outcome
    ) -> None:
        """Have a command and what came of it written into the audit, if there is one."""
        if outcome == "blocked":
            logger.warning("blocked: %s on VM %s", command, self.vm)
        if self.audit is not None:
            self.audit.note(
                vm=self.vm,
                command=command,
                arguments=[str(key) for key in arguments] if isinstance(arguments, dict) else (),
                class_=class_,
                transport=self.transport,
                nodeid=self.nodeid(),
                duration=seconds,
                outcome=outcome,
            )
