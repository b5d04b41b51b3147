"""The reaper, with processes of its own to look after; how pytest ends is tests/plugin/test_cleanup.py's."""

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from pytest_qemuvm.host import sweep
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.process import TAG_VARIABLE
from pytest_qemuvm.host.reaper import Reaper

TAG = "qv-test-reaped"
OWNER = f"""
import os, sys
from pathlib import Path
from pytest_qemuvm.host.reaper import Reaper
reaper = Reaper({TAG!r})
{{act}}
os.write(1, b"%d\\n" % reaper.pid)
sys.stdin.read()
"""
SLEEPER = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]


@pytest.fixture
def sleeper():
    started = []

    def start(tag):
        started.append(subprocess.Popen(SLEEPER, env={**os.environ, TAG_VARIABLE: tag}))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def tap():
    """Make a TAP device that stays."""
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", b"qvtest-tap", 0x1002))  # TUNSETIFF
    except OSError as error:
        pytest.skip(f"no TAP device can be made here: {error}")
    fcntl.ioctl(descriptor, 0x400454CB, 1)  # TUNSETPERSIST
    os.close(descriptor)
    yield "qvtest-tap"
    sweep.remove_link("qvtest-tap")


@pytest.fixture
def reaper():
    reaper = Reaper(TAG)
    yield reaper
    reaper.close()


def up(reaper):
    """Wait until it is up: it has begun to ignore what would end it."""
    reaper.settle()
    deadline = Deadline.after(20)
    while not ignored(reaper.pid) >> signal.SIGTERM - 1 & 1:
        assert not deadline.expired


def ignored(pid):
    """Return the mask of signals that a process ignores."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("SigIgn:")[2].split()[0], 16)


def test_it_starts_with_the_first_directory_and_ends_with_close(tmp_path):
    reaper = Reaper("qv-test-none")
    assert reaper.pid is None
    reaper.watch_directory(tmp_path / "a")
    pid = reaper.pid
    reaper.watch_directory(tmp_path / "b")
    assert reaper.pid == pid
    reaper.close()
    assert not psutil.pid_exists(pid)
    reaper.close()


def test_its_last_sweep_ends_what_carries_the_tag_and_nothing_else(tmp_path, sleeper):
    mine, other = sleeper("qv-test-mine"), sleeper("qv-test-mine-not")
    directory = tmp_path / "files"
    reaper = Reaper("qv-test-mine")
    reaper.watch_directory(directory)
    directory.mkdir()
    (directory / "left").touch()
    reaper.close()
    assert mine.wait(timeout=10) == -9
    assert other.poll() is None
    assert not directory.exists()


def test_it_is_in_a_session_of_its_own_and_carries_the_tag_like_everything_else(
    reaper, tmp_path, monkeypatch
):
    monkeypatch.setenv(TAG_VARIABLE, "qv-test-outer")
    reaper.watch_directory(tmp_path / "x")
    assert os.getsid(reaper.pid) == reaper.pid
    assert sweep.tagged(TAG) == [reaper.pid]
    assert TAG in psutil.Process(reaper.pid).cmdline()


def test_it_takes_no_more_than_12_mebibytes(reaper, tmp_path):
    reaper.watch_lease(tmp_path / f"{TAG}.lease")
    reaper.watch_directory(tmp_path / "x")
    reaper.watch_process(os.getpid(), 1)
    up(reaper)
    assert psutil.Process(reaper.pid).memory_full_info().pss <= 12 * 2**20


def test_signals_that_end_a_whole_tree_of_processes_do_not_end_it_before_its_work_is_done(reaper, tmp_path):
    reaper.watch_directory(tmp_path / "x")
    up(reaper)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        os.kill(reaper.pid, number)
    (tmp_path / "x").mkdir()
    reaper.close()
    assert not (tmp_path / "x").exists()


def test_until_it_is_wanted_it_is_a_shell_that_waits(reaper, tmp_path):
    reaper.watch_directory(tmp_path / "x")
    identity = reaper.pid, sweep.start_ticks(reaper.pid)
    program = Path(f"/proc/{reaper.pid}/exe")
    assert program.samefile("/bin/sh")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        up_to = Deadline.after(20)
        while not ignored(reaper.pid) >> number - 1 & 1:
            assert not up_to.expired
        os.kill(reaper.pid, number)
    reaper.settle()
    until = Deadline.after(20)
    while program.samefile("/bin/sh"):
        assert not until.expired
    assert (reaper.pid, sweep.start_ticks(reaper.pid)) == identity


def test_an_owner_that_dies_before_that_is_cleaned_up_after_as_well(tmp_path, sleeper):
    machine = sleeper(TAG)
    act = f"reaper.watch_directory(Path({str(tmp_path / 'x')!r})); Path({str(tmp_path / 'x')!r}).mkdir()"
    owner = OWNER.format(act=act)
    with subprocess.Popen(
        [sys.executable, "-c", owner], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.kill()
    assert machine.wait(timeout=20) == -signal.SIGKILL
    until = Deadline.after(20)
    while (tmp_path / "x").exists():
        assert not until.expired


def test_one_that_was_killed_is_replaced_and_the_new_one_knows_all(reaper, tmp_path, sleeper):
    directory = tmp_path / "first"
    reaper.watch_directory(directory)
    directory.mkdir()
    untagged = sleeper("qv-test-other")
    reaper.watch_process(untagged.pid, sweep.start_ticks(untagged.pid))
    first = psutil.Process(reaper.pid)
    first.kill()
    first.wait()
    reaper.watch_directory(tmp_path / "second")
    assert reaper.pid != first.pid
    reaper.close()
    assert untagged.wait(timeout=10) == -signal.SIGKILL
    assert not directory.exists()


def test_one_that_is_stopped_holds_up_nobody(reaper, tmp_path):
    reaper.watch_directory(tmp_path / "x")
    stopped = psutil.Process(reaper.pid)
    stopped.suspend()
    for number in range(3000):  # more than the pipe holds
        reaper.watch_directory(tmp_path / f"directory-with-a-longer-name-{number}")
    stopped.resume()


def test_a_process_it_was_told_of_is_ended_without_the_tag_and_never_another_of_that_pid(
    reaper, tmp_path, sleeper
):
    told, reused, ended = (sleeper("qv-test-other") for _ in range(3))
    reaper.watch_process(told.pid, sweep.start_ticks(told.pid))
    reaper.watch_process(reused.pid, sweep.start_ticks(reused.pid) - 1)
    reaper.watch_process(ended.pid, sweep.start_ticks(ended.pid))
    reaper.forget_process(ended.pid, sweep.start_ticks(ended.pid))
    reaper.close()
    assert told.wait(timeout=10) == -signal.SIGKILL
    assert reused.poll() is None
    assert ended.poll() is None


@pytest.mark.parametrize("name", ["with\nnewline", "with space", "with-\udcff-byte"])
def test_names_of_all_kinds_are_removed(reaper, tmp_path, name):
    reaper.watch_directory(tmp_path / name)
    (tmp_path / name).mkdir()
    reaper.close()
    assert list(tmp_path.iterdir()) == []


def test_a_tap_is_removed(reaper, tap):
    assert Path("/sys/class/net", tap).exists()
    reaper.watch_link(tap)
    reaper.close()
    assert not Path("/sys/class/net", tap).exists()


def test_a_pipe_that_closes_while_its_owner_lives_ends_nothing(tmp_path, sleeper):
    """As when a test closes all descriptors that it finds."""
    machine = sleeper(TAG)
    owner = OWNER.format(act=f"reaper.watch_directory(Path({str(tmp_path / 'x')!r})); os.closerange(3, 1000)")
    with subprocess.Popen(
        [sys.executable, "-c", owner], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        pid = int(process.stdout.readline())
        poll = select.poll()
        poll.register(os.pidfd_open(pid), select.POLLIN)
        assert poll.poll(300) == []
        assert machine.poll() is None
        process.kill()
        process.wait()
        assert poll.poll(10000)
    assert machine.wait(timeout=10) == -signal.SIGKILL


def test_a_worker_is_interrupted_when_its_controller_dies(reaper, tmp_path, sleeper):
    controller = sleeper("qv-test-other")
    ticks = sweep.start_ticks(controller.pid)
    owner = OWNER.format(act=f"reaper.watch_controller({controller.pid}, {ticks}); reaper.settle()")
    with subprocess.Popen(
        [sys.executable, "-c", owner], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        worker.stdout.readline()
        controller.kill()
        assert worker.wait(timeout=20) == -signal.SIGINT


def test_threads_that_come_first_together_start_one(tmp_path):
    reaper = Reaper("qv-test-threads")
    before = {child.pid for child in psutil.Process().children()}
    threads = [threading.Thread(target=reaper.watch_directory, args=(tmp_path / str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {child.pid for child in psutil.Process().children()} - before == {reaper.pid}
    reaper.close()


def test_what_was_just_being_started_when_its_owner_died_is_ended_too(tmp_path):
    # The tag shows in /proc only when the exec is over; a first sweep may come before that.
    late = f"sleep 0.2; {TAG_VARIABLE}=qv-test-late exec sleep 60"
    owner = (
        "import os, pathlib, subprocess; from pytest_qemuvm.host.reaper import Reaper; "
        f"Reaper('qv-test-late').watch_directory(pathlib.Path({str(tmp_path / 'x')!r})); "
        f"child = subprocess.Popen(['sh', '-c', {late!r}], stdout=-3, stderr=-3, start_new_session=True); "
        "print(child.pid, flush=True); os._exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", owner], capture_output=True, text=True, check=False)
    child = psutil.Process(int(done.stdout))
    try:
        psutil.wait_procs([child], timeout=10)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    finally:
        if child.is_running():
            child.kill()
