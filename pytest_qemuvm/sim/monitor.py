"""One QMP monitor: negotiation, one command after the other, and events once it was negotiated."""

from __future__ import annotations

from time import time

from pytest_qemuvm.sim.chardev import FrontEnd
from pytest_qemuvm.sim.qmpjson import JsonError, dumps, whole_object
from pytest_qemuvm.sim.words import QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.chardev import Chardev
    from pytest_qemuvm.sim.jsonlexer import Lexer
    from pytest_qemuvm.sim.machine import Machine

_NEGOTIATE = "qmp_capabilities"


class Raw(bytes):
    """A value that is JSON already."""


class Monitor(FrontEnd):
    """A client at a time; before it negotiated, it gets neither answers nor events."""

    def __init__(self, machine: Machine, chardev: Chardev) -> None:
        self.machine = machine
        self.chardev = chardev
        self.descriptors: dict[str, int] = {}
        """What ``getfd`` named."""
        self.has_client = False
        self._negotiated = self._oob = self._hung = False
        self._lexer: Lexer | None = None
        chardev.attach(self)

    def opened(self) -> None:  # noqa: D102
        self.has_client = True
        self._negotiated = self._oob = False
        self._lexer = None
        self._send(dumps(self.machine.greeting()).encode())

    def closed(self) -> None:  # noqa: D102
        self._negotiated = False
        for fd in self.descriptors.values():
            self.machine.fdsets.close_descriptor(fd)
        self.descriptors = {}
        self.has_client = False
        if not any(monitor.has_client for monitor in self.machine.monitors):
            self.machine.fdsets.all_clients_gone()

    def event(self, name: str, data: Any) -> None:
        """Send an event, if the client has negotiated."""
        if self._negotiated:
            now = time()
            event: dict[str, Any] = {
                "timestamp": {"seconds": int(now), "microseconds": int(now % 1 * 1_000_000)},
                "event": name,
            }
            if data is not None:
                event["data"] = data
            self._send(dumps(event).encode())

    def received(self, data: bytes) -> None:  # noqa: D102
        if self._lexer is None:
            message = whole_object(data)
            if message is not None:
                self._handle(message)
                return
            from pytest_qemuvm.sim.jsonlexer import Lexer

            self._lexer = Lexer()
        from pytest_qemuvm.sim.jsonparser import parse

        lexer = self._lexer
        for tokens in lexer.feed(data):
            try:
                message = parse(tokens)
            except JsonError as error:
                self._refuse(QmpRefusal(error.desc), {})
                continue
            self._handle(message)
            if self._lexer is not lexer:  # the client was sent away
                return
        if lexer.idle:
            self._lexer = None

    def _handle(self, message: Any) -> None:
        """Answer a message."""
        fate = "answer" if self._is_negotiation(message) else self.machine.faults.before_command()
        if fate == "hang":
            self._hung = True
        if self._hung:
            return
        if fate == "disconnect":
            self.chardev.hang_up()
            return
        name, data, count = self.machine.faults.storm()
        for _ in range(count):
            self.event(name, data)
        try:
            value = self._execute(message)
        except QmpRefusal as refusal:
            self._refuse(refusal, message)
            return
        self._answer(b'"return": %s' % (value if isinstance(value, Raw) else dumps(value).encode()), message)

    @staticmethod
    def _is_negotiation(message: Any) -> bool:
        return isinstance(message, dict) and message.get("execute") == _NEGOTIATE

    def _refuse(self, refusal: QmpRefusal, message: Any) -> None:
        error = {"class": refusal.class_, "desc": refusal.desc}
        self._answer(b'"error": %s' % dumps(error).encode(), message)

    def _answer(self, content: bytes, message: Any) -> None:
        if isinstance(message, dict) and "id" in message:
            content += b', "id": %s' % dumps(message["id"]).encode()
        line = b"{%s}" % content
        if self.machine.faults.slow_ms:
            self.machine.loop.later(self.machine.faults.slow_ms, lambda: self._send(line))
        else:
            self._send(line)

    def _send(self, line: bytes) -> None:
        split = self.machine.faults.split
        line += b"\r\n"
        for begin in range(0, len(line), split or len(line)):
            self.chardev.send(line[begin : begin + (split or len(line))])

    def _execute(self, message: Any) -> Any:
        """Check a message as QEMU's dispatcher does, in its order, and carry the command out."""
        name, arguments, oob = self._checked(message)
        if not self._negotiated:
            if name != _NEGOTIATE:
                raise QmpRefusal(
                    "Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound"
                )
            self.machine.commands.check(name, arguments)
            self._negotiate(arguments)
            return {}
        if name == _NEGOTIATE:
            raise QmpRefusal(
                "Capabilities negotiation is already complete, command ignored", "CommandNotFound"
            )
        return self.machine.commands.execute(self, name, arguments, oob=oob)

    def _checked(self, message: Any) -> tuple[str, dict[str, Any], bool]:
        if not isinstance(message, dict):
            raise QmpRefusal("QMP input must be a JSON object")
        command, oob = None, False
        for key, value in message.items():
            if key == "execute" or (key == "exec-oob" and self._oob):
                if not isinstance(value, str):
                    raise QmpRefusal(f"QMP input member '{key}' must be a string")
                if command is not None:
                    other = "execute" if key == "exec-oob" else "exec-oob"
                    raise QmpRefusal(f"QMP input member '{key}' clashes with '{other}'")
                command, oob = value, key == "exec-oob"
            elif key == "arguments":
                if not isinstance(value, dict):
                    raise QmpRefusal("QMP input member 'arguments' must be an object")
            elif key != "id":
                raise QmpRefusal(f"QMP input member '{key}' is unexpected")
        if command is None:
            raise QmpRefusal("QMP input lacks member 'execute'")
        return command, message.get("arguments", {}), oob

    def _negotiate(self, arguments: dict[str, Any]) -> None:
        self._oob = "oob" in arguments.get("enable", ())
        self._negotiated = True
