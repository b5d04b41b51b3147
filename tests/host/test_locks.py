"""Locks between processes: who has one is known, death frees it, and only its holder removes its file.

All of it for both kinds: the locks in the cache, and the leases of sessions.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from pytest_qemuvm.errors import LockTimeout, SpecError
from pytest_qemuvm.host import lease as lease_module
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.lease import Lease, Origin
from pytest_qemuvm.host.locks import holder as holder_of
from pytest_qemuvm.host.locks import locked

TAG = "qv-one"
HOLDER = """
import os, sys
from pathlib import Path
from pytest_qemuvm.host import lease
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.locks import locked
kind, path = sys.argv[1], Path(sys.argv[2])
if kind == "lease":
    lease.runtime_root = lambda: path.parent.mkdir(exist_ok=True)
    it = lease.Lease(path.parent, path.stem, lease.Origin("here"))
    it.take()
else:
    it = locked(path, "it", Deadline.after(20))
    it.__enter__()
print("held", flush=True)
sys.stdin.readline()
it.release() if kind == "lease" else it.__exit__(None, None, None)
print("released", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(params=["cache", "lease"])
def kind(request):
    return request.param


@pytest.fixture
def path(tmp_path, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setattr(lease_module, "runtime_root", lambda: root.mkdir(exist_ok=True))
    return root / f"{TAG}.lease"


@pytest.fixture
def hold(kind, path, monkeypatch):
    """Return what holds the lock in this process, having waited so many seconds at the most."""

    @contextlib.contextmanager
    def hold_(seconds=0):
        if kind == "cache":
            with locked(path, f"session {TAG}", Deadline.after(seconds)):
                yield
            return
        monkeypatch.setattr(lease_module, "_SECONDS", seconds)
        lease = Lease(path.parent, TAG, Origin("here"))
        try:
            lease.take()
            yield
        finally:
            lease.release()

    return hold_


@pytest.fixture
def other(kind, path, monkeypatch):
    """Start another process that holds the lock."""
    started = []

    def start(code=HOLDER):
        monkeypatch.setenv("PYTEST_CURRENT_TEST", "tests/test_a.py::test_one[x y] (call)")
        process = subprocess.Popen(
            [sys.executable, "-c", code, kind, str(path)],
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


def let_go(process, lines=1):
    process.stdin.write("\n" * lines)
    process.stdin.flush()
    assert process.stdout.readline() == "released\n"


def test_a_time_out_names_the_holder_by_pid_and_test(hold, path, other):
    holder = other()
    for _ in range(2):  # an attempt in vain leaves the name where it is
        with pytest.raises(LockTimeout) as caught, hold(0.1):
            pass
        assert caught.value.holder == f"pid {holder.pid}, tests/test_a.py::test_one[x y]"
        assert caught.value.holder in caught.value.brief
    assert caught.value.waited_for == f"session {TAG}"
    assert caught.value.seconds == 0.1


def test_whoever_waits_gets_it_when_it_is_let_go(hold, other):
    holder = other()
    timer = threading.Timer(0.3, let_go, [holder])
    timer.start()
    with hold(20):
        pass
    timer.join()


@pytest.mark.parametrize("kind", ["cache"], indirect=True)
def test_whoever_waits_is_told_once_for_whom(path, other):
    holder = other()
    waiting = []

    def told(who):
        waiting.append(who)
        let_go(holder)

    with locked(path, "it", Deadline.after(20), told):
        assert waiting == [f"pid {holder.pid}, tests/test_a.py::test_one[x y]"]
        assert holder_of(path).startswith(f"pid {os.getpid()}")


def test_kill_9_of_the_holder_frees_it(hold, path, other):
    holder = other()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert holder_of(path).startswith(f"pid {holder.pid}")  # it still names the dead
    with hold():
        assert holder_of(path).startswith(f"pid {os.getpid()}")


@pytest.mark.parametrize("content", ["", "{", '["pid"]', '{"pid": 1, "test": null}', "\0" * 5000])
def test_a_stale_file_without_a_holder_is_simply_taken(hold, path, content):
    path.write_text(content)
    with hold():
        assert holder_of(path).startswith(f"pid {os.getpid()}")


def test_it_is_released_only_by_its_holder_and_a_loser_removes_nothing(hold, path, other):
    holder = other()
    for _ in range(2):
        with pytest.raises(LockTimeout), hold():
            pass
        assert path.exists()
    assert holder.poll() is None
    let_go(holder)
    with hold():
        pass


def test_two_of_the_same_process_exclude_each_other(hold):
    caught = []

    def second():
        with pytest.raises(LockTimeout) as error, hold():
            pass
        caught.append(error.value.holder)

    with hold():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        second()
    assert [who.partition(",")[0] for who in caught] == [f"pid {os.getpid()}"] * 2


def test_a_fork_that_outlives_its_holder_holds_nothing(hold, other):
    holder = other(HOLDER.replace('print("held"', 'pid = os.fork()\nif pid: print("held"'))
    with pytest.raises(LockTimeout), hold():
        pass
    holder.kill()
    holder.wait()
    # The fork waits for a line and then says so: it has lived all the time.
    with hold(20):
        let_go(holder, lines=2)
        with pytest.raises(LockTimeout), hold():
            pass


def test_a_lease_that_was_removed_and_made_anew_is_not_the_lease(path):
    first, second = (Lease(path.parent, TAG, Origin("here")) for _ in range(2))
    first.take()
    path.unlink()
    assert not first.in_force
    second.take()
    first.release()
    assert path.exists()  # the second's
    assert second.in_force
    path.unlink()
    second.take()
    assert second.in_force
    second.release()
    assert not path.exists()


def test_many_are_never_in_at_once(hold):
    """Leases are removed each time, which others must see who have just opened the file."""
    inside, most = [], []

    def work():
        for _ in range(40):
            with hold(60):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

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


def test_a_place_that_cannot_be_written_is_an_os_error(hold, path):
    path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(OSError, match="symbolic"), hold():
        pass
    assert not (path.parent / "elsewhere").exists()


def test_a_lease_needs_no_library():
    code = "import sys, pytest_qemuvm.host.lease\nassert 'filelock' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
