"""What ends every wait for a guest at once: QEMU's death, the guest's panic, its switching itself off."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_qemuvm.errors import QemuVMError


class Interrupt:
    """A descriptor that becomes readable when waiting for the guest has become pointless.

    The first reason given counts: a guest that panicked and is then killed has panicked.
    """

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._reason: Callable[[], QemuVMError] | None = None
        self._listeners: list[Callable[[], object]] = []

    def fileno(self) -> int:
        """Return the descriptor to be polled beside what is waited for."""
        return self._fd

    @property
    def raised(self) -> bool:
        """True once there is a reason."""
        return self._reason is not None

    def error(self) -> QemuVMError:
        """Return the reason as an error, made anew for every waiter."""
        assert self._reason is not None
        return self._reason()

    def raise_(self, reason: Callable[[], QemuVMError]) -> None:
        """Wake everybody; ``reason`` makes the error that they get."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener()

    def clear(self) -> None:
        """Take the reason back: the guest that gave it has been restored to an earlier moment."""
        with self._lock:
            if self._reason is not None and self._fd >= 0:
                os.eventfd_read(self._fd)
            self._reason = None

    def listen(self, listener: Callable[[], object]) -> None:
        """Call back when it is raised, at once if it has been; for those who cannot poll."""
        with self._lock:
            self._listeners.append(listener)
            raised = self._reason is not None
        if raised:
            listener()

    def close(self) -> None:
        """Give the descriptor back."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
