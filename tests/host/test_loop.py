"""The loop thread: callable from anywhere, and gone without a trace when closed."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_qemuvm.host.loop import LoopThread


@pytest.fixture
def loop():
    with LoopThread("under-test") as thread:
        yield thread


async def thread_name():
    return threading.current_thread().name


async def for_ever(started=None, ended=None):
    try:
        if started is not None:
            started.set()
        await asyncio.Event().wait()
    finally:
        if ended is not None:
            ended.set()


def test_nothing_runs_before_the_first_use():
    before = threading.active_count()
    thread = LoopThread()
    assert threading.active_count() == before
    thread.close()
    thread.close()


def test_work_runs_on_its_own_thread(loop):
    assert loop.call(thread_name()) == "under-test"
    assert loop.submit(thread_name()).result(10) == "under-test"


def test_one_thread_for_all_callers(loop):
    async def ident():
        return threading.get_ident()

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(lambda: loop.call(ident())) for _ in range(64)]
        assert len({future.result(10) for future in futures}) == 1


def test_errors_come_through(loop):
    async def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop.call(fail())


def test_posted_callbacks_run_in_order(loop):
    seen, done = [], threading.Event()
    for number in range(100):
        loop.post(seen.append, number)
    loop.post(done.set)
    assert done.wait(10)
    assert seen == list(range(100))


def test_from_inside_a_running_loop(loop):
    async def body():
        return loop.call(thread_name())

    assert asyncio.run(body()) == "under-test"


def test_waiting_on_its_own_thread_is_refused(loop):
    async def body():
        with pytest.raises(RuntimeError):
            loop.call(thread_name())
        with pytest.raises(RuntimeError):
            loop.close()
        return await asyncio.wrap_future(loop.submit(thread_name()))

    assert loop.call(body()) == "under-test"


def test_timeout_cancels_the_coroutine(loop):
    ended = threading.Event()
    with pytest.raises(TimeoutError):
        loop.call(for_ever(ended=ended), timeout=0.05)
    assert ended.wait(10)


def test_interrupt_cancels_the_coroutine(loop):
    ended, caller = threading.Event(), threading.get_ident()

    async def interrupted():
        try:
            # Not before the caller really waits.
            while sys._current_frames()[caller].f_code.co_name != "wait":  # noqa: ASYNC110
                await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        loop.call(interrupted())
    assert ended.wait(10)
    assert loop.call(thread_name()) == "under-test"


def test_close_unwinds_what_is_left():
    loop = LoopThread()
    started, ended = threading.Event(), threading.Event()
    future = loop.submit(for_ever(started, ended))
    assert started.wait(10)
    loop.close()
    assert ended.is_set()
    with pytest.raises(CancelledError):
        future.result(0)


def test_use_after_close_is_refused():
    loop = LoopThread()
    loop.call(thread_name())
    loop.close()
    assert loop.closed
    with pytest.raises(RuntimeError):
        loop.call(thread_name())
    with pytest.raises(RuntimeError):
        loop.post(print)
    with pytest.raises(RuntimeError):
        loop.watch(0, print)


def test_watch_fires_once(loop):
    read, write = os.pipe()
    fired = threading.Semaphore(0)
    loop.watch(read, fired.release)
    os.close(read)
    os.close(write)
    assert fired.acquire(timeout=10)
    loop.call(thread_name())
    assert not fired.acquire(blocking=False)
    assert loop._watches == set()


def test_watch_tells_of_a_death(loop):
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    pidfd = os.pidfd_open(process.pid)
    dead = threading.Event()
    loop.watch(pidfd, dead.set)
    process.kill()
    assert dead.wait(10)
    process.communicate()
    os.close(pidfd)


def test_cancelled_watch_is_silent(loop):
    read, write = os.pipe()
    fired = []
    watch = loop.watch(read, lambda: fired.append(1))
    watch.cancel()
    watch.cancel()
    loop.call(thread_name())
    os.write(write, b"x")
    loop.call(thread_name())
    assert fired == []
    os.close(read)
    os.close(write)


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_close_releases_watches():
    read, write = os.pipe()
    before = open_descriptors()
    loop = LoopThread()
    watch = loop.watch(read, print)
    loop.close()
    watch.cancel()
    assert open_descriptors() == before
    os.close(read)
    os.close(write)


def test_forgotten_thread_does_not_keep_the_process_alive():
    code = (
        "from pytest_qemuvm.host.loop import LoopThread\n"
        "async def nothing(): pass\n"
        "thread = LoopThread(); thread.call(nothing())\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0


def test_closing_leaves_no_resource_behind():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            with LoopThread() as thread:
                thread.call(thread_name())
    gc.collect()
