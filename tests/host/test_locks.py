"""Locks between processes: who has one is known, death frees it, and only its holder removes its file."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from pytest_qemuvm.errors import LockTimeout, SpecError
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.locks import FileLock, locked

HOLDER = """
import os, sys
from pathlib import Path
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.locks import FileLock
lock = FileLock(Path(sys.argv[1]), "it")
lock.acquire(Deadline.after(20))
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""
NOW = Deadline.after(0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "the.lock"


@pytest.fixture
def other(path, monkeypatch):
    """Start another process that holds the lock."""
    started = []

    def start(test="tests/test_a.py::test_one[x y] (call)"):
        monkeypatch.setenv("PYTEST_CURRENT_TEST", test)
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_time_out_names_the_holder_by_pid_and_test(path, other):
    holder = other()
    with pytest.raises(LockTimeout) as caught:
        FileLock(path, "the thing").acquire(Deadline.after(0))
    assert caught.value.holder == f"pid {holder.pid}, tests/test_a.py::test_one[x y]"
    assert caught.value.waited_for == "the thing"
    assert caught.value.seconds == 0


def test_whoever_waits_is_told_for_whom_and_gets_it_when_it_is_let_go(path, other):
    holder = other()
    waiting = []

    def told(who):
        waiting.append(who)
        holder.stdin.write("\n")
        holder.stdin.flush()

    lock = FileLock(path, "it")
    lock.acquire(Deadline.after(20), told)
    assert len(waiting) == 1
    assert f"pid {holder.pid}" in waiting[0]
    assert lock.in_force
    lock.release()


def test_kill_9_of_the_holder_frees_it(path, other):
    holder = other()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert path.read_text()  # it still names the dead
    lock = FileLock(path, "it")
    lock.acquire(Deadline.after(20))
    assert str(os.getpid()) in lock.holder()
    lock.release()


@pytest.mark.parametrize("content", ["", "{", '["pid"]', '{"pid": 1, "test": null}', "\0" * 5000])
def test_a_stale_file_without_a_holder_is_simply_taken(path, content):
    path.write_text(content)
    lock = FileLock(path, "it")
    lock.acquire(NOW)
    assert lock.holder().startswith(f"pid {os.getpid()}")
    lock.release()
    assert path.read_text() == ""


def test_it_is_released_only_by_its_holder_and_a_loser_removes_nothing(path, other):
    holder = other()
    loser = FileLock(path, "it")
    with pytest.raises(LockTimeout):
        loser.acquire(NOW)
    loser.release(remove=True)
    assert path.exists()
    with pytest.raises(LockTimeout):
        FileLock(path, "it").acquire(NOW)
    assert holder.poll() is None


def test_two_of_the_same_process_exclude_each_other(path):
    first = FileLock(path, "it")
    first.acquire(NOW)
    caught = []

    def second():
        with pytest.raises(LockTimeout) as error:
            FileLock(path, "it").acquire(Deadline.after(0))
        caught.append(error.value.holder)

    thread = threading.Thread(target=second)
    thread.start()
    thread.join()
    first.release()
    assert caught[0].startswith(f"pid {os.getpid()}")


def test_a_fork_that_outlives_its_holder_holds_nothing(path):
    forks = HOLDER.replace('print("held"', 'pid = os.fork()\nif pid: print("held"')
    with subprocess.Popen(
        [sys.executable, "-c", forks, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockTimeout):
            FileLock(path, "it").acquire(NOW)
        holder.kill()
        holder.wait()
        # The fork waits for a line and then says so: it has lived all the time.
        lock = FileLock(path, "it")
        lock.acquire(Deadline.after(20))
        holder.stdin.write("\n\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "released\n"
        assert lock.in_force
        lock.release()


def test_the_lock_of_a_file_that_was_removed_and_made_anew_is_not_the_lock(path):
    first = FileLock(path, "it")
    first.acquire(NOW)
    path.unlink()
    assert not first.in_force
    second = FileLock(path, "it")
    second.acquire(NOW)
    first.release(remove=True)
    assert path.exists()  # the second's
    assert second.in_force
    second.release(remove=True)
    assert not path.exists()


def test_many_who_take_it_and_remove_it_are_never_in_at_once(path):
    inside, most = [], []

    def work():
        for _ in range(40):
            lock = FileLock(path, "it")
            lock.acquire(Deadline.after(60))
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            lock.release(remove=True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 160
    assert set(most) == {1}


def test_what_is_raised_while_it_is_held_comes_out_as_it_is(path):
    error = SpecError("wrong")
    with pytest.raises(SpecError) as caught, locked(path, "it", Deadline.after(20)):
        raise error
    assert caught.value is error
    with locked(path, "it", Deadline.after(0)):
        pass


def test_a_place_that_cannot_be_written_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / "missing" / "the.lock", "it").acquire(NOW)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        FileLock(tmp_path / "link", "it").acquire(NOW)
    assert not (tmp_path / "elsewhere").exists()
