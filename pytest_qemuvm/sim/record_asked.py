"""A QEMU that is asked for what is to be recorded."""

from __future__ import annotations

import json
import subprocess
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

LEAN = ("-nodefaults", "-no-user-config", "-display", "none", "-S")

PATIENCE = 15.0
"""Seconds that one QEMU is given for all that it is asked."""


class Recorded:
    """A QEMU that is asked for what is to be recorded."""

    def __init__(self, binary: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [binary, *LEAN, *arguments, "-qmp", "stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        # A device may make it hang; then it ends like one that crashed.
        self._timer = threading.Timer(PATIENCE, self._process.kill)
        self._timer.start()
        assert self._process.stdout is not None
        self.greeting = json.loads(self._process.stdout.readline())
        self.ask("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._process.kill()
        self._process.communicate()

    def reply(self, command: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the reply to a command; events are passed over."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        message = {"execute": command, "arguments": arguments or {}}
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()
        while True:
            answer = json.loads(self._process.stdout.readline())
            if "event" not in answer:
                return dict(answer)

    def ask(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Return the value of a command, which must not fail."""
        return self.reply(command, arguments)["return"]
