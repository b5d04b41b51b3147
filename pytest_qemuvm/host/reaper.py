"""The owner's end of the reaper: started with the first VM, told of directories before they exist."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

from pytest_qemuvm.host.process import TAG_VARIABLE

_PROGRAM = Path(__file__).with_name("reaper_main.py")
_GOODBYE = 10.0
"""Seconds that the last sweep may take."""


class Reaper:
    """A separate process that cleans up when this one dies without doing so."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The reaper's pid, or None before there is anything to watch."""
        return self._process.pid if self._process else None

    def watch_directory(self, path: Path) -> None:
        """Have the directory removed when this process dies; to be called before it is made."""
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            process.stdin.write(os.fsencode(path) + b"\n")
            process.stdin.flush()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            environment = {key: value for key, value in os.environ.items() if key != TAG_VARIABLE}
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_PROGRAM), self._tag, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=environment,
                start_new_session=True,
            )
        return self._process

    def close(self) -> None:
        """Let it sweep once more, which finds nothing after an orderly end, and wait until it is gone."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # somebody has ended it already
            process.stdin.write(b"bye\n")
            process.stdin.close()
        try:
            process.wait(_GOODBYE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
