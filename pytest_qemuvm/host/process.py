"""QEMU as a process: started with inherited descriptors, known by identity, ended with certainty.

A pid alone is reused by the kernel; (pid, start time) is not, and a pidfd names the process until it is
closed. Waiting on the pidfd costs nothing, where ``Popen.wait(timeout)`` polls.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import LaunchError
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.sweep import TAG_VARIABLE, start_ticks, stat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["LOG_NAME", "LOG_TAIL", "TAG_VARIABLE", "QemuProcess", "Stranger", "spawn"]

LOG_NAME = "qemu.log"
"""The file in a VM's own directory that QEMU writes its messages to."""
LOG_TAIL = 4096
"""Bytes of the log that an error quotes."""


class QemuProcess:
    """A child process that we own: it is reaped by us and by nobody else."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path, argv: Sequence[str]) -> None:
        self._popen = popen
        self._log = log
        self.pid = popen.pid
        self.argv = tuple(argv)
        """QEMU's command line, also where its simulator was started with it."""
        # Our child cannot vanish before we reap it, so its start time can be read without a race.
        self.ticks = stat(popen.pid)[1]
        """Its start in clock ticks since boot, exact where a time of day is not."""
        self.identity = (popen.pid, _time_of_day(self.ticks))
        self._pidfd = os.pidfd_open(popen.pid)

    def fileno(self) -> int:
        """Return the pidfd, which is readable once the process has ended."""
        return self._pidfd

    def status(self) -> int | None:
        """Return the exit status (negative: the signal that killed it), or None while it runs."""
        if self._popen.returncode is not None:
            return self._popen.returncode
        # Not Popen.poll(), which says None as well while another thread is about to reap it.
        return self.wait(Deadline.after(0))

    @property
    def alive(self) -> bool:
        """True until the process has ended; a zombie is not alive."""
        return self.status() is None

    def log_tail(self) -> str:
        """Return the end of what QEMU wrote to stdout and stderr."""
        return _tail(self._log)

    def wait(self, deadline: Deadline) -> int | None:
        """Wait until it ends and reap it; return its exit status, or None if the deadline came first."""
        pidfd = self._pidfd
        if pidfd < 0:  # closed, which it is after its end only
            return self._popen.wait()
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        while not poll.poll(deadline.remaining * 1000):
            if deadline.expired:
                return None
        return self._popen.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that is gone is no error."""
        pidfd = self._pidfd
        if pidfd >= 0:  # closed, which it is after its end only
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)

    @property
    def is_stopped(self) -> bool:
        """True where a signal has stopped every thread of it, until SIGCONT; False once it has ended."""
        if self._popen.returncode is not None:  # its pid may be another's by now
            return False
        try:
            states = {
                _state(f"/proc/{self.pid}/task/{thread}/stat")
                for thread in os.listdir(f"/proc/{self.pid}/task")  # noqa: PTH208
            }
        except OSError:
            return False
        return states == {b"T"}

    def kill(self) -> int:
        """End it for certain and reap it; SIGKILL cannot be refused, so this waits without a deadline."""
        self.signal(signal.SIGKILL)
        return self._popen.wait()

    def close(self) -> None:
        """Kill it if it still runs, and give the pidfd back."""
        if self._pidfd >= 0:
            if self.alive:
                self.kill()
            pidfd, self._pidfd = self._pidfd, -1
            os.close(pidfd)


class Stranger:
    """A QEMU that another process started and will reap: its end can be seen, its exit status cannot.

    Raises ProcessLookupError where the process with that pid is gone, or is another one by now.
    """

    def __init__(self, pid: int, ticks: int, log: Path) -> None:
        self._log = log
        self._pidfd = os.pidfd_open(pid)
        # The pidfd is of whoever has the pid now.
        if start_ticks(pid) != ticks:
            self.close()
            raise ProcessLookupError(f"process {pid} has ended")

    def fileno(self) -> int:
        """Return the pidfd, which is readable once the process has ended."""
        return self._pidfd

    def status(self) -> int | None:
        """Return None: the kernel tells its parent alone."""
        return None

    def log_tail(self) -> str:
        """Return the end of what QEMU wrote to stdout and stderr."""
        return _tail(self._log)

    def close(self) -> None:
        """Give the pidfd back; the process goes on. Idempotent."""
        if self._pidfd >= 0:
            pidfd, self._pidfd = self._pidfd, -1
            os.close(pidfd)


def _state(path: str) -> bytes:
    """Return the state letter of a thread."""
    with open(path, "rb") as file:  # noqa: PTH123  # as the other reader of such files
        return file.read().rpartition(b")")[2].split()[0]


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LOG_TAIL))
            return log.read().decode(errors="replace")
    except OSError as error:
        return f"(the log cannot be read: {error})"


def _time_of_day(ticks: int) -> float:
    """Return a start in ticks as psutil's ``create_time`` gives it; its import would take 10 ms."""
    with open("/proc/stat", "rb") as file:  # noqa: PTH123  # each launch comes this way
        boot = next(line for line in file if line.startswith(b"btime"))
    return ticks / os.sysconf("SC_CLK_TCK") + float(boot.split()[1])


def spawn(
    argv: Sequence[str],
    descriptors: Iterable[int],
    log: Path,
    *,
    cwd: Path,
    environment: Mapping[str, str],
    command: Sequence[str] | None = None,
) -> QemuProcess:
    """Start QEMU with these descriptors inherited under their numbers, writing to ``log``.

    ``environment`` is added to ours; ``command`` is what is executed where it is not ``argv`` itself.
    It gets a session of its own, so that Ctrl-C in the terminal reaches only pytest, which then ends it in
    order. Raises LaunchError where the binary cannot be executed.
    """
    with log.open("wb") as out:
        try:
            popen = subprocess.Popen(
                list(command or argv),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=tuple(descriptors),
                cwd=cwd,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        except OSError as error:
            raise LaunchError(
                f"{argv[0]} cannot be started: {error}", argv=argv, status=None, log=""
            ) from error
    try:
        return QemuProcess(popen, log, argv)
    except BaseException:
        popen.kill()
        popen.wait()
        raise
