"""The second monitor of every VM, and who reaches it from where."""

import os
import signal
import socket
import stat
import subprocess
import sys

import pytest

from pytest_qemuvm.errors import (
    ConnectError,
    MonitorBusy,
    NotRunning,
    QmpDisconnected,
    UnsafeDirectory,
    VMNotFound,
)
from pytest_qemuvm.qmp import connect

pytestmark = pytest.mark.qemuvm(template="bare")

ELSEWHERE = """
import sys
from pytest_qemuvm.qmp import connect
with connect(sys.argv[1]) as qmp:
    with qmp.expect_event("STOP"):
        qmp.execute("stop")
    print(qmp.execute("query-status")["status"])
"""


def test_its_socket_is_private_and_short_whatever_the_vm_is_called(vm_factory, qemuvm, coherence):
    vm = vm_factory("a" * 63)
    assert vm.monitor_path.is_socket()
    assert len(os.fsencode(vm.monitor_path)) <= 107 - 30
    directory = vm.monitor_path.parent
    assert qemuvm.root in (directory, *directory.parents)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert coherence.check() == []


def kill_from_outside(vm):
    os.kill(vm.pid, signal.SIGKILL)
    vm.wait_stopped()
    vm.reconcile()


ENDS = {
    "stop": lambda vm: vm.stop(),
    "kill": lambda vm: vm.kill(),
    "quit": lambda vm: (vm.qmp.execute("quit"), vm.wait_stopped(), vm.record),
    "killed from outside": kill_from_outside,
    "delete": lambda vm: vm.delete(),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_its_socket_goes_with_the_run(vm, coherence, end):
    path = vm.monitor_path
    with connect(vm.name) as client:
        end(vm)
        with pytest.raises(QmpDisconnected):
            client.wait_event("NEVER")
    assert not path.exists()
    assert coherence.check() == []


def test_it_is_there_again_after_a_restart(vm):
    path = vm.monitor_path
    with connect(vm.name) as client:
        vm.restart()
        assert not client.connected
    assert vm.monitor_path == path
    with connect(vm.name) as client:
        assert client.execute("query-name") == vm.qmp.execute("query-name")


def test_clients_may_come_and_go_and_the_owner_sees_what_they_did(vm, coherence):
    for _ in range(20):
        since = vm.qmp.events.last
        with connect(vm.name) as client:
            client.execute("stop")
            client.execute("cont")
        # The client has its answer before the owner has heard of it.
        vm.qmp.wait_event("RESUME", since=since, timeout=20)
    assert [event.name for event in vm.qmp.events] == ["STOP", "RESUME"] * 20
    assert coherence.check() == []


def test_another_process_finds_it_by_the_vms_name(vm):
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, vm.name], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "paused\n", "")
    assert vm.state == "paused"


def test_its_exit_status_is_told_to_the_owner_alone(vm, qemuvm):
    with connect(vm.name, session=qemuvm.tag) as client:
        pid = vm.pid
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(QmpDisconnected) as caught:
            client.wait_event("NEVER", timeout=60)
        assert caught.value.status is None
    vm.restart()


# Who cannot be served


def test_a_second_client_is_told_of_the_first(vm):
    with connect(vm.name) as first:
        with pytest.raises(MonitorBusy) as caught:
            connect(vm.name, patience=0.2)
        assert caught.value.path == str(vm.monitor_path)
        assert first.execute("query-status")["running"]


def test_a_second_client_is_served_when_the_first_leaves(vm, in_thread):
    first = connect(vm.name)
    second = in_thread(connect, vm.name, patience=60)
    await_queue(vm.monitor_path)
    first.close()
    with second.result(60) as client:
        assert client.execute("query-status")["running"]


def await_queue(path):
    """Return once a client waits for another one to leave."""
    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.host.sockets import is_taken

    deadline = Deadline.after(20)
    while not is_taken(path):
        assert not deadline.expired


def test_more_clients_than_can_wait_are_told_so(vm):
    with connect(vm.name):
        waiting = []
        try:
            while True:
                sock = socket.socket(socket.AF_UNIX)
                waiting.append(sock)
                sock.setblocking(False)
                sock.connect(str(vm.monitor_path))
        except BlockingIOError:
            pass
        with pytest.raises(MonitorBusy):
            connect(vm.name, patience=0.2)
        for sock in waiting:
            sock.close()
    with connect(vm.name) as client:
        assert client.execute("query-status")["running"]


def test_a_qemu_that_stands_still_is_not_taken_for_a_busy_one(vm):
    os.kill(vm.pid, signal.SIGSTOP)
    try:
        with pytest.raises(ConnectError) as caught:
            connect(vm.name, patience=0.2)
        assert not isinstance(caught.value, MonitorBusy)
    finally:
        os.kill(vm.pid, signal.SIGCONT)
    with connect(vm.name) as client:
        assert client.execute("query-status")["running"]


def test_a_socket_that_was_removed(vm):
    vm.monitor_path.unlink()
    with pytest.raises(ConnectError):
        connect(vm.name)


def test_a_directory_that_others_can_use_is_refused(vm, qemuvm):
    qemuvm.root.chmod(0o770)
    try:
        with pytest.raises(UnsafeDirectory) as caught:
            connect(vm.name)
        assert caught.value.path == str(qemuvm.root)
        with pytest.raises(UnsafeDirectory):
            vm.restart()
    finally:
        qemuvm.root.chmod(0o700)
    vm.start()


def test_a_name_that_is_none(vm_factory):
    vm_factory("webserver")
    with pytest.raises(VMNotFound) as caught:
        connect("webservr")
    assert "'webserver'" in caught.value.hint


def test_a_session_that_is_none(vm, qemuvm):
    with pytest.raises(VMNotFound) as caught:
        connect(vm.name, session=f"{qemuvm.tag}x")
    assert qemuvm.tag in caught.value.hint


def test_a_vm_that_does_not_run(vm):
    vm.stop()
    with pytest.raises(NotRunning):
        connect(vm.name)
