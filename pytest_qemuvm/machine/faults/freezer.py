"""Stopping QEMU's process itself: to everybody outside it has hung."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import WaitTimeout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.host.process import QemuProcess

_LOOK_SECONDS = 0.001
"""From one look at the threads to the next: the kernel tells nobody but a parent that waits."""
STOP_SECONDS = 10.0
"""How long the kernel may take to stop all threads, one of which may be writing to a disk."""


class Freezer:
    """Stops a process and lets it run on. Several threads may use it."""

    def __init__(self, process: QemuProcess) -> None:
        self._process = process
        self._lock = threading.Lock()
        self._wanted = False
        self._aside = 0

    @property
    def frozen(self) -> bool:
        """True while it is to stand still, and nobody has it run for a moment."""
        return self._wanted and not self._aside

    def freeze(self, deadline: Deadline) -> None:
        """Stop every thread of it, and return when the kernel says that they stand still.

        Raises WaitTimeout.
        """
        with self._lock:
            self._wanted = True
            self._process.signal(signal.SIGSTOP)
        pause = threading.Event()
        while self.frozen and not self._process.is_stopped and self._process.alive:
            if deadline.expired:
                raise WaitTimeout(
                    f"process {self._process.pid} did not stand still within {deadline.seconds:g} s",
                    waited_for="the kernel to stop QEMU",
                    seconds=deadline.seconds,
                )
            pause.wait(_LOOK_SECONDS)

    def release(self) -> None:
        """Let it run on, if it was frozen here: what somebody else has stopped is that one's affair."""
        with self._lock:
            if self._wanted:
                self._wanted = False
                self._process.signal(signal.SIGCONT)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Have it run for a moment, so that it can be told something."""
        with self._lock:
            self._aside += 1
            self._process.signal(signal.SIGCONT)
        try:
            yield
        finally:
            with self._lock:
                self._aside -= 1
                if self._wanted and not self._aside:
                    self._process.signal(signal.SIGSTOP)
