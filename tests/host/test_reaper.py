"""The reaper, with processes of its own to look after; how pytest ends is tests/plugin/test_cleanup.py's."""

import os
import subprocess
import sys
import threading

import psutil
import pytest

from pytest_qemuvm.host.process import TAG_VARIABLE
from pytest_qemuvm.host.reaper import Reaper

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


def test_it_is_in_a_session_of_its_own_and_does_not_carry_the_tag(tmp_path, monkeypatch):
    monkeypatch.setenv(TAG_VARIABLE, "qv-test-outer")
    reaper = Reaper("qv-test-session")
    reaper.watch_directory(tmp_path / "x")
    try:
        assert os.getsid(reaper.pid) == reaper.pid
        assert TAG_VARIABLE not in psutil.Process(reaper.pid).environ()
    finally:
        reaper.close()


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
