"""The owner's end of the reaper: started with the first VM, told of everything before it exists.

What it is told goes into a pipe, and nobody waits for an answer. Until the first VM is up it is a shell that
waits for a word, or for our end: the interpreter that it becomes then would take a processor away from QEMU
just when that starts.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

from pytest_qemuvm.host.sweep import TAG_VARIABLE, start_ticks

_PROGRAM = Path(__file__).with_name("reaper_main.py")
_PROLOGUE = "trap '' INT TERM HUP; read -r word; exec \"$@\" </dev/null"
"""Every shell knows this much; signals that are ignored stay so for what it becomes."""
_GOODBYE = 10.0
"""Seconds that the last sweep may take."""


class Reaper:
    """A separate process that cleans up when this one dies without doing so.

    It carries the session's tag like every other process of the session, so that whoever sweeps after the
    session finds it too. One that was ended from outside is replaced with the next thing to watch.
    """

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._word = -1
        self._is_settled = False
        self._known: dict[str, None] = {}
        """All that is watched, in the order in which it came."""

    @property
    def pid(self) -> int | None:
        """The reaper's pid, or None before there is anything to watch."""
        return self._process.pid if self._process else None

    def watch_directory(self, path: Path) -> None:
        """Have the directory removed when this process dies; to be called before it is made."""
        self._watch(f"D{path}")

    def watch_link(self, name: str) -> None:
        """Have a network interface, such as a TAP, removed as well; to be called before it is made."""
        self._watch(f"N{name}")

    def forget_link(self, name: str) -> None:
        """Say that a network interface is gone, or was never ours."""
        with self._lock:
            self._known.pop(f"N{name}", None)
            if self._process is not None:
                self._say(f"n{name}")

    def watch_process(self, pid: int, ticks: int) -> None:
        """Have a process ended as well, known by its pid and its start in clock ticks since boot."""
        self._watch(f"P{pid} {ticks}")

    def forget_process(self, pid: int, ticks: int) -> None:
        """Say that a process has ended."""
        with self._lock:
            self._known.pop(f"P{pid} {ticks}", None)
            if self._process is not None:
                self._say(f"p{pid}")

    def watch_lease(self, path: Path) -> None:
        """Have the session's lease removed last. Sessions beside it that are dead are cleared away now."""
        self._watch(f"L{path}")

    def watch_controller(self, pid: int, ticks: int) -> None:
        """Have this process interrupted when that one has died: xdist's controller, if this is a worker."""
        self._watch(f"C{pid} {ticks}")

    def settle(self) -> None:
        """Have it become what it is, now that nobody waits for the first VM any more."""
        with self._lock:
            self._is_settled = True
            self._give_word()

    def _give_word(self) -> None:
        if self._word >= 0:
            word, self._word = self._word, -1
            os.close(word)

    def _watch(self, message: str) -> None:
        with self._lock:
            self._known[message] = None
            if self._process is None or not self._say(message):
                self._start()

    def _say(self, message: str) -> bool:
        """Send one message; return whether there was somebody to send it to."""
        try:
            os.write(self._pipe, os.fsencode(message) + b"\0")
        except BlockingIOError:
            # It was stopped, and the pipe is full. The tag and the record of the session are still there.
            return True
        except OSError:
            return False
        return True

    def _start(self) -> None:
        """Start one and tell it all that is known."""
        self._bury()
        read, write = os.pipe()
        waits, word = os.pipe()
        reaper = [sys.executable, "-I", "-S", str(_PROGRAM), self._tag, *map(str, _myself()), str(read)]
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _PROLOGUE, "sh", *reaper],
                stdin=waits,
                pass_fds=(read,),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={**os.environ, TAG_VARIABLE: self._tag},
                # Ctrl-C in the terminal is not for it.
                start_new_session=True,
            )
        except BaseException:
            os.close(write)
            os.close(word)
            raise
        finally:
            os.close(read)
            os.close(waits)
        self._word = word
        # Nobody may ever have to wait for a reaper that does not read.
        os.set_blocking(write, False)
        self._pipe = write
        for message in self._known:
            self._say(message)
        if self._is_settled:
            self._give_word()

    def close(self) -> None:
        """Let it sweep once more, which finds nothing after an orderly end, and wait until it is gone."""
        with self._lock:
            process = self._process
            if process is None:
                return
            self._say("B")
            self._give_word()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GOODBYE)
            self._bury()
            self._known.clear()

    def _bury(self) -> None:
        """Let go of the process, ending it if need be."""
        process, self._process = self._process, None
        if process is None:
            return
        self._give_word()
        os.close(self._pipe)
        self._pipe = -1
        process.kill()
        process.wait()


def _myself() -> tuple[int, int]:
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    return os.getpid(), ticks
