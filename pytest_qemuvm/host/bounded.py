"""Run a program that may hang, flood its output or leave children, and be back by the deadline in every case.

For probes and package managers: programs that are expected to end by themselves. A running QEMU with a
monitor is another matter.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from pathlib import Path

KEPT_OUTPUT = 256 * 1024
"""Bytes kept of each stream. The rest is read and dropped, so that the program never blocks on us."""

_GRACE_AFTER_KILL = 2.0
"""Seconds for the kernel to bury a killed process. One that is stuck in a driver is not waited for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended."""

    argv: tuple[str, ...]
    status: int | None
    """The exit status; negative: killed by that signal; None: it overran its time and was killed by us."""
    stdout: str
    stderr: str
    seconds: float

    @property
    def ok(self) -> bool:
        """True if it ended by itself with status 0."""
        return self.status == 0

    def ending(self) -> str:
        """Say in a few words how it ended."""
        if self.status is None:
            return f"still running after {self.seconds:.1f} s, killed"
        if self.status < 0:
            try:
                return f"killed by {signal.Signals(-self.status).name}"
            except ValueError:
                return f"killed by signal {-self.status}"
        return f"exit status {self.status}"

    def evidence(self, lines: int = 10) -> str:
        """Return the command, how it ended and the last lines it wrote, for an error's details."""
        import shlex  # noqa: PLC0415  # only a failure needs it

        said = (self.stderr.strip() or self.stdout.strip() or "(it wrote nothing)").splitlines()
        return "\n".join([f"command: {shlex.join(self.argv)}", f"ended: {self.ending()}", *said[-lines:]])


def run_bounded(
    argv: Sequence[str],
    *,
    seconds: float,
    cpu_seconds: int | None = None,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> Outcome:
    """Run a program to its end, at most ``seconds`` long, and return how it ended. stdin is empty.

    It gets a session of its own, and all of that session is killed when the program has ended or its time
    is over. ``cpu_seconds`` makes the kernel kill it even if this process dies meanwhile. ``env`` is added
    to the environment; messages are asked for in English. Raises OSError if the program cannot be started.
    """
    import subprocess  # noqa: PLC0415  # not needed where every probe is answered from the cache

    start = time.monotonic()
    process = subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=tuple(pass_fds),
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C", **(env or {})},
        start_new_session=True,
    )
    try:
        if cpu_seconds is not None:
            _limit_cpu(process.pid, cpu_seconds)
        kept, ended = _collect(process, start + seconds)
    finally:
        _end_session(process)
    return Outcome(
        tuple(argv),
        process.returncode if ended else None,
        stdout=kept[0].decode(errors="replace"),
        stderr=kept[1].decode(errors="replace"),
        seconds=time.monotonic() - start,
    )


def _limit_cpu(pid: int, seconds: int) -> None:
    import resource  # noqa: PLC0415  # as above

    with contextlib.suppress(ProcessLookupError, PermissionError):
        resource.prlimit(pid, resource.RLIMIT_CPU, (seconds, seconds))


def _collect(process: subprocess.Popen[bytes], until: float) -> tuple[tuple[bytes, bytes], bool]:
    """Read both streams until the program ends or its time is over; do not wait for heirs of its pipes."""
    assert process.stdout is not None
    assert process.stderr is not None
    streams = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    for fd in streams:
        os.set_blocking(fd, False)
    pidfd = os.pidfd_open(process.pid)
    try:
        poller = select.poll()
        for fd in (pidfd, *streams):
            poller.register(fd, select.POLLIN)
        ended = False
        while not ended and (left := until - time.monotonic()) > 0:
            for fd, _ in poller.poll(left * 1000):
                if fd == pidfd:
                    ended = True
                elif not _drain(fd, streams[fd]):
                    poller.unregister(fd)
        for fd, kept in streams.items():
            _drain(fd, kept)
    finally:
        os.close(pidfd)
    first, second = streams.values()
    return (bytes(first), bytes(second)), ended


def _drain(fd: int, kept: bytearray) -> bool:
    """Take what a pipe holds right now, up to one pipe's fill; return False at its end."""
    for _ in range(16):
        try:
            block = os.read(fd, 65536)
        except BlockingIOError:
            return True
        if not block:
            return False
        kept += block[: max(0, KEPT_OUTPUT - len(kept))]
    return True


def _end_session(process: subprocess.Popen[bytes]) -> None:
    # The pid is still ours here, because nobody has reaped it: the group cannot be a stranger's.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    import subprocess  # noqa: PLC0415  # loaded already

    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_AFTER_KILL)
