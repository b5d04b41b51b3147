import os
import select
import signal
import sys
import threading

import psutil
import pytest

from pytest_qemuvm.errors import LaunchError
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.process import TAG_VARIABLE, spawn


@pytest.fixture
def python(tmp_path):
    started = []

    def start(code, descriptors=()):
        argv = [sys.executable, "-I", "-S", "-c", code]
        started.append(
            spawn(argv, descriptors, tmp_path / "log", cwd=tmp_path, environment={TAG_VARIABLE: "qv-test"})
        )
        return started[-1]

    yield start
    for process in started:
        process.close()


def test_it_is_known_by_pid_and_start_time_and_carries_the_tag(python):
    read, write = os.pipe()
    process = python(f"import os, time; os.write({write}, b'up'); time.sleep(60)", [write])
    os.close(write)
    assert os.read(read, 2) == b"up"  # until its exec is over, /proc shows no environment
    os.close(read)
    seen = psutil.Process(process.pid)
    assert process.identity == (seen.pid, seen.create_time())
    assert seen.environ()[TAG_VARIABLE] == "qv-test"
    assert os.getsid(process.pid) == process.pid  # out of reach of the terminal's Ctrl-C
    assert process.alive


def test_its_end_is_waited_for_with_a_deadline_and_its_last_words_kept(python):
    process = python("import sys; print('last words', file=sys.stderr); sys.exit(7)")
    assert process.wait(Deadline.after(30)) == 7
    assert process.status() == 7
    assert not process.alive
    assert "last words" in process.log_tail()


def test_a_deadline_that_passes_is_none(python):
    assert python("import time; time.sleep(60)").wait(Deadline.after(0.01)) is None


def test_a_killed_process_says_so_and_signals_to_the_dead_are_no_error(python):
    process = python("import time; time.sleep(60)")
    assert process.kill() == -signal.SIGKILL
    process.signal(signal.SIGTERM)
    process.close()
    process.close()


def test_that_it_has_ended_is_seen_also_while_another_thread_is_about_to_reap_it(python):
    process = python("import sys; sys.exit(7)")
    ended = select.poll()
    ended.register(process.fileno(), select.POLLIN)
    ended.poll()
    reaping = process._popen._waitpid_lock
    reaping.acquire()
    threading.Timer(0.05, reaping.release).start()
    assert process.status() == 7


def test_it_can_be_asked_after_it_was_closed(python):
    process = python("import time; time.sleep(60)")
    process.close()
    assert process.wait(Deadline.after(0)) == process.status() == -signal.SIGKILL


def test_only_the_descriptors_that_were_named_are_inherited(python, tmp_path):
    read, write = os.pipe()
    other = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(other, True)
    process = python(f"import os; os.write({write}, ' '.join(os.listdir('/proc/self/fd')).encode())", [write])
    os.close(write)
    process.wait(Deadline.after(30))
    numbers = {int(number) for number in os.read(read, 1000).split()}
    os.close(read)
    os.close(other)
    assert {0, 1, 2, write} <= numbers
    assert other not in numbers


def test_what_cannot_be_executed_is_a_launch_error(tmp_path):
    with pytest.raises(LaunchError) as caught:
        spawn(["/nonexistent"], (), tmp_path / "log", cwd=tmp_path, environment={TAG_VARIABLE: "qv-test"})
    assert caught.value.status is None
    assert caught.value.argv == ("/nonexistent",)


def test_the_tail_of_a_long_log_is_its_end(python, tmp_path):
    process = python("print('x' * 100000); print('the end')")
    process.wait(Deadline.after(30))
    assert process.log_tail().endswith("the end\n")
    assert len(process.log_tail()) < 5000
    (tmp_path / "log").unlink()
    assert "cannot be read" in process.log_tail()
