"""One event loop on one thread of its own, for everything that waits on more than one thing at a time.

Tests are synchronous, sometimes run inside an event loop of their own, and sometimes in several threads. None
of that concerns a loop that lives on a thread nobody else runs on: whoever calls hands work over and waits
for a future.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

T = TypeVar("T")


class Watch:
    """A watch on one file descriptor, made by ``LoopThread.watch``; it fires at most once."""

    def __init__(self, loop: LoopThread, fd: int, callback: Callable[[], object]) -> None:
        self._loop = loop
        # A duplicate, so that the owner of the original may close it whenever it likes.
        self._fd = os.dup(fd)
        self._callback = callback

    def cancel(self) -> None:
        """Stop watching; safe from any thread, at any time, more than once."""
        try:
            self._loop.post(self.release)
        except RuntimeError:  # the loop is closed and has released every watch
            return

    def begin(self) -> None:
        """Start watching. Only on the loop's thread."""
        self._loop.running.add_reader(self._fd, self._fire)

    def release(self) -> bool:
        """Stop watching and close the duplicate; return False if that was done before. Only on the thread."""
        if self._fd < 0:
            return False
        self._loop.running.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._loop.discard(self)
        return True

    def _fire(self) -> None:
        # A pidfd stays readable for ever: unless it is let go first, the loop would spin on it.
        if self.release():
            self._callback()


class LoopThread:
    """An event loop on a thread of its own, started by the first use and ended by ``close()``.

    Every method may be called from any thread, also from inside another running event loop. Waiting for the
    loop from its own thread would wait for ever and is a RuntimeError instead; so is any use after a close.
    """

    def __init__(self, name: str = "qemuvm-loop") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._closed = False
        self._watches: set[Watch] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def running(self) -> asyncio.AbstractEventLoop:
        """The loop itself, once something has started it."""
        assert self._loop is not None
        return self._loop

    @property
    def closed(self) -> bool:
        """True once ``close()`` has been called."""
        return self._closed

    def post(self, callback: Callable[..., object], *args: object) -> None:
        """Have the callback called on the loop's thread, after everything posted before it.

        This is the cheapest way in: no task, no future, one wake-up of the thread.
        """
        # Under the lock, so that nothing is posted behind the back of close(): it would never run.
        with self._lock:
            self._ready().call_soon_threadsafe(callback, *args)

    def submit(self, coro: Coroutine[Any, Any, T]) -> Future[T]:
        """Run the coroutine on the loop and return its future; cancelling that cancels the coroutine."""
        import asyncio  # noqa: PLC0415  # a suite that starts no VM must not pay for it

        try:
            with self._lock:
                return asyncio.run_coroutine_threadsafe(coro, self._ready())
        except RuntimeError:
            coro.close()
            raise

    def call(self, coro: Coroutine[Any, Any, T], *, timeout: float | None = None) -> T:
        """Run the coroutine on the loop and return its result; ``timeout`` in seconds, TimeoutError after it.

        When the wait is interrupted (a time-out, Ctrl-C in the calling thread), the coroutine is cancelled.
        """
        try:
            self.refuse_own_thread()
        except RuntimeError:
            coro.close()
            raise
        future = self.submit(coro)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def watch(self, fd: int, callback: Callable[[], object]) -> Watch:
        """Call back once, on the loop's thread, when the descriptor becomes readable.

        The descriptor is duplicated: the caller keeps its own and may close it.
        """
        watch = Watch(self, fd, callback)
        self._watches.add(watch)
        try:
            self.post(watch.begin)
        except RuntimeError:
            self._watches.discard(watch)
            os.close(watch._fd)  # noqa: SLF001  # its other half, in the same module
            raise
        return watch

    def discard(self, watch: Watch) -> None:
        """Forget a watch that has been released."""
        self._watches.discard(watch)

    def refuse_own_thread(self) -> None:
        """Raise RuntimeError on the loop's own thread, where waiting for the loop could never end."""
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                f"this would wait for the thread {self._name!r} on that very thread, for ever: "
                "await the asynchronous form instead"
            )

    def close(self) -> None:
        """Cancel what is left, let it unwind, end the thread and wait for it. Idempotent."""
        self.refuse_own_thread()
        with self._lock:
            first = not self._closed
            self._closed = True
            if first and self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join()

    def _ready(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, starting it if need be. Only under the lock."""
        if self._closed:
            raise RuntimeError(f"the thread {self._name!r} has been closed")
        if self._loop is None:
            started = threading.Event()
            # A daemon, so that a session that dies without closing us still ends.
            self._thread = threading.Thread(target=self._run, args=(started,), name=self._name, daemon=True)
            self._thread.start()
            started.wait()
            assert self._loop is not None
        return self._loop

    def _run(self, started: threading.Event) -> None:
        import asyncio  # noqa: PLC0415  # see submit()

        async def serve() -> None:
            self._stop = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            started.set()
            await self._stop.wait()

        # The runner cancels all remaining tasks, waits for them, and closes the loop.
        with asyncio.Runner() as runner:
            runner.run(serve())
            runner.run(self._release_watches())

    async def _release_watches(self) -> None:
        for watch in tuple(self._watches):
            watch.release()
