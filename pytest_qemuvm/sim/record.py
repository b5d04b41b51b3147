"""Record a version of QEMU for the simulator: a tool of the project's, that the simulator itself never uses.

    python -m pytest_qemuvm.sim.record QEMU [DIRECTORY]

QEMU is a binary, or a wrapper of one; its version decides the name of what is written:
``data/<version>/recorded.bin``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pytest_qemuvm.sim import archive

if TYPE_CHECKING:
    from types import TracebackType

LEAN = ("-nodefaults", "-no-user-config", "-display", "none", "-S")


class Recorded:
    """A QEMU that is asked for what is to be recorded."""

    def __init__(self, binary: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [binary, *LEAN, *arguments, "-qmp", "stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        self.greeting = json.loads(self._process.stdout.readline())
        self.ask("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
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


def packed(value: Any) -> bytes:
    """Return a value as it is recorded."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()


def record(binary: str) -> dict[str, bytes]:
    """Return everything that is recorded of a QEMU."""
    pieces: dict[str, Any] = {}
    with Recorded(binary, "-machine", "none") as qemu:
        pieces["version"] = qemu.ask("query-version")
        pieces["greeting"] = qemu.greeting
        pieces["schema"] = qemu.ask("query-qmp-schema")
        pieces["commands"] = sorted(entry["name"] for entry in qemu.ask("query-commands"))
        pieces["command-line-options"] = qemu.ask("query-command-line-options")
    return {name: packed(value) for name, value in pieces.items()}


def main(binary: str, directory: str = archive.DIRECTORY) -> None:
    """Record a QEMU and write its archive."""
    pieces = record(binary)
    version = json.loads(pieces["version"])["qemu"]
    path = Path(directory) / f"{version['major']}.{version['minor']}" / archive.NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    archive.write(str(path), pieces)
    sys.stdout.write(f"{path}: {len(pieces)} pieces, {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
