"""The audit: a line of JSON for each command that anybody asked a session's machines to carry out.

Blocked and failed ones too. A line names the arguments and holds none of their values: a password that is not
written cannot be read. All VMs of a session, and all processes that talk to them, write one file with one
sequence.
"""

from __future__ import annotations

import fcntl
import functools
import json
import logging
import os
import pwd
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

logger = logging.getLogger("pytest_qemuvm.qmp")

Outcome = Literal["ok", "error", "blocked", "invalid", "timeout", "disconnected"]
"""What came of a command: QEMU did it, or refused; we refused; or nobody knows (the last two)."""

KEYS = (
    *("timestamp", "vm", "command", "arguments", "class", "transport"),
    *("user", "nodeid", "seq", "duration", "outcome"),
)
"""What a line has, in this order."""

_ENCODER = json.JSONEncoder(separators=(",", ":"))
_TAIL = 1 << 16
"""Bytes from the file's end in which its last line begins; a line is 300 bytes long."""

AUDIT_NAME = "audit@.jsonl"
"""The audit's place in the session's directory: no VM can be called so."""


class AuditLog:
    """The audit of one session: a file that is only ever added to.

    Each line is in the file when ``note`` returns. A file that cannot be written fails nobody's command: that
    is logged once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file: int | None = None
        self._end = -1
        """How long the file was after our own last line."""
        self._seq = 0
        self._failed = False
        self._closed = False

    def note(
        self,
        *,
        vm: str,
        command: str,
        arguments: Iterable[str],
        class_: str,
        transport: str,
        nodeid: str,
        duration: float,
        outcome: Outcome,
    ) -> None:
        """Add a line for a command whose outcome is known, ``duration`` seconds after it was asked for."""
        line: dict[str, Any] = {
            "timestamp": _utc(time.time() - duration),
            "vm": vm,
            "command": command,
            "arguments": [*arguments],
            "class": class_,
            "transport": transport,
            "user": _user(),
            "nodeid": nodeid,
            "seq": 0,
            "duration": round(duration, 6),
            "outcome": outcome,
        }
        with self._lock:
            if self._closed:
                return
            try:
                self._append(line)
            except (OSError, ValueError, TypeError, KeyError) as error:
                if not self._failed:
                    self._failed = True
                    logger.warning("the audit %s cannot be written: %s", self.path, error)

    def close(self) -> None:
        """Let go of the file; what is noted later is dropped. Idempotent."""
        with self._lock:
            self._closed = True
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def lines(self, vm: str | None = None) -> list[dict[str, Any]]:
        """Return what has been noted, of one VM or of all, in the order of ``seq``."""
        return [line for line in read(self.path) if vm in (None, line["vm"])]

    def _append(self, line: dict[str, Any]) -> None:
        if self._file is None:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._file = os.open(self.path, flags, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            end = os.fstat(self._file).st_size
            if end != self._end:
                # Somebody else has written since: another process that talks to these machines.
                self._seq = _last_seq(self._file, end)
            line["seq"] = self._seq + 1
            data = _ENCODER.encode(line).encode() + b"\n"
            os.write(self._file, data)
            self._seq += 1
            self._end = end + len(data)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an audit; none where there is no such file."""
    try:
        with path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except FileNotFoundError:
        return []


def readable(lines: Iterable[dict[str, Any]]) -> str:
    """Return lines of an audit as text for people: when, how long, what, and what came of it."""
    return "\n".join(
        f"{line['timestamp'][11:23]} {line['duration'] * 1000:9.1f} ms  {line['outcome']:<12} "
        f"{line['command']}({', '.join(line['arguments'])})"
        for line in lines
    )


def _last_seq(file: int, end: int) -> int:
    """Return the number of the last line, 0 where there is none."""
    begin = max(0, end - _TAIL)
    last = os.pread(file, end - begin, begin).rstrip(b"\n").rpartition(b"\n")[2]
    return int(json.loads(last)["seq"]) if last else 0


def _utc(seconds: float) -> str:
    whole, fraction = divmod(seconds, 1)
    return f"{_utc_second(int(whole))}.{int(fraction * 1e6):06d}+00:00"


@functools.lru_cache(maxsize=4)
def _utc_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


@functools.cache
def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user that has no name
        return str(os.getuid())
