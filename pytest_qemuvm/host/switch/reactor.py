"""The one thread that waits for all sockets of all segments, and the way into it from others."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import threading
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_qemuvm.errors import QemuVMError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

READABLE, WRITABLE = select.EPOLLIN, select.EPOLLOUT
_SELECTABLE = 1024
"""select() takes descriptors below this number only."""


class _Call:
    """Something that another thread wants done, and waits for."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.act()
        except BaseException as error:  # noqa: BLE001  # it belongs to who called, on whose thread it is raised
            self.error = error
        finally:
            self.done.set()


class Reactor:
    """A thread that sleeps until a socket has something, a time has come, or somebody wants something done.

    What fails on it is nobody's to catch: the first failure is kept, the thread goes on with the next socket,
    and whoever calls next gets the failure as QemuVMError.
    """

    def __init__(self, name: str = "qemuvm-switch") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._calls: deque[_Call] = deque()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._sequence = itertools.count()
        self._handlers: dict[int, Callable[[int], object]] = {}
        self._epoll: select.epoll | None = None
        self._wake = -1
        self._failure: BaseException | None = None
        self._closed = self._ending = False
        self.rounds = 0
        """How often the thread woke up."""

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._lock:
            if self._thread is not None or self._closed:
                return
            self._epoll = select.epoll()
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self.watch(self._wake, self._run_calls)
            # A daemon, so that a session that dies without closing us still ends.
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def call(self, act: Callable[[], T]) -> T:
        """Have something done on the thread and return its result.

        Raises what it raises; before that, what failed on the thread since the last call, as QemuVMError, and
        the same after ``close()``.
        """
        self.raise_failure()
        call = self._begin(act)
        if call is None:
            raise QemuVMError("the switch of the networks has been closed")
        result: T = self._result(call)
        return result

    def undo(self, act: Callable[[], object]) -> None:
        """Have something taken away on the thread, or here if that has ended."""
        call = self._begin(act)
        if call is not None:
            self._result(call)
            return
        if self._thread is not None:
            self._thread.join()
        act()

    def close(self) -> None:
        """End the thread and wait for it. Idempotent. Raises what failed on it, as QemuVMError."""
        with self._lock:
            first, self._closed = not self._closed, True
            if first and self._thread is not None:
                self._calls.append(_Call(self._end))
                os.eventfd_write(self._wake, 1)
        if self._thread is not None:
            self._thread.join()
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise what failed on the thread since this was last asked, as QemuVMError."""
        with self._lock:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise QemuVMError(
                "the switch of the networks failed at a frame, a timer or a socket, and went on",
                "".join(traceback.format_exception(failure)).rstrip(),
            ) from failure

    def watch(self, fd: int, handler: Callable[[int], object]) -> None:
        """Call the handler with what epoll says, whenever the descriptor is readable. On the thread."""
        assert self._epoll is not None
        self._epoll.register(fd, READABLE)
        self._handlers[fd] = handler

    def wait_for(self, fd: int, events: int) -> None:
        """Change what a watched descriptor is watched for. On the thread."""
        assert self._epoll is not None
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching a descriptor, before it is closed. On the thread."""
        assert self._epoll is not None
        if self._handlers.pop(fd, None) is not None and not self._epoll.closed:
            self._epoll.unregister(fd)

    def at(self, moment: float, act: Callable[[], object]) -> None:
        """Have something done at a moment of ``time.monotonic()``. On the thread."""
        heapq.heappush(self._timers, (moment, next(self._sequence), act))

    def _begin(self, act: Callable[[], Any]) -> _Call | None:
        if threading.current_thread() is self._thread:
            raise RuntimeError(f"this would wait for the thread {self._name!r} on that very thread, for ever")
        call = _Call(act)
        with self._lock:
            if self._closed:
                return None
            if self._thread is None:  # nobody else there whom it could disturb
                call.run()
            else:
                self._calls.append(call)
                os.eventfd_write(self._wake, 1)
        return call

    @staticmethod
    def _result(call: _Call) -> Any:
        call.done.wait()
        if call.error is not None:
            raise call.error
        return call.result

    def _run(self) -> None:
        try:
            while not self._ending:
                self._round()
        except BaseException as error:  # noqa: BLE001  # the thread ends here; who calls must hear of it
            self._failed(error)
        finally:
            with self._lock:
                self._closed = True
                left = tuple(self._calls)
                self._calls.clear()
            for call in left:
                call.error = QemuVMError("the switch of the networks has ended")
                call.done.set()
            assert self._epoll is not None
            self._epoll.close()
            os.close(self._wake)

    def _round(self) -> None:
        ready = self._wait()
        self.rounds += 1
        for fd, events in ready:
            handler = self._handlers.get(fd)
            if handler is not None:
                try:
                    handler(events)
                except Exception as error:  # noqa: BLE001  # one socket's failure must not be that of all
                    self._failed(error)
        while self._timers and self._timers[0][0] <= time.monotonic():
            act = heapq.heappop(self._timers)[2]
            try:
                act()
            except Exception as error:  # noqa: BLE001  # the same for what is due
                self._failed(error)

    def _wait(self) -> list[tuple[int, int]]:
        epoll = self._epoll
        assert epoll is not None
        if not self._timers:
            return epoll.poll()
        seconds = self._timers[0][0] - time.monotonic()
        if seconds <= 0:
            return epoll.poll(0)
        if epoll.fileno() >= _SELECTABLE:  # too many files are open; a millisecond late is better than never
            return epoll.poll(seconds)
        # epoll counts in milliseconds, select() in microseconds.
        select.select([epoll], [], [], seconds)
        return epoll.poll(0)

    def _run_calls(self, _events: int) -> None:
        os.eventfd_read(self._wake)
        while self._calls:
            self._calls.popleft().run()

    def _end(self) -> None:
        self._ending = True

    def _failed(self, error: BaseException) -> None:
        with self._lock:
            if self._failure is None:
                self._failure = error
