"""Bad input and faults, as far as a real QEMU can be made to do it, over both ways to its monitor."""

import asyncio
import os
import signal
import socket
import threading

import pytest

from pytest_qemuvm.errors import (
    ConnectError,
    InvalidArguments,
    PathTooLong,
    QmpDisconnected,
    QmpTimeout,
    UnsafeDirectory,
)
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.lookup import find_vm
from pytest_qemuvm.qmp import Client, connect
from pytest_qemuvm.qmp.monitors import open_monitor

pytestmark = pytest.mark.qemuvm(template="bare")


@pytest.fixture(params=["owner", "second"])
def qmp(request, vm):
    if request.param == "owner":
        yield vm.qmp
    else:
        with connect(vm.name) as client:
            yield client


@pytest.fixture
def stopped(vm):
    """Stop QEMU in its tracks, for as long as the block lasts."""

    class Stopped:
        def __enter__(self):
            os.kill(vm.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, vm.pid, os.WSTOPPED | os.WNOWAIT)

        def __exit__(self, *exc_info):
            os.kill(vm.pid, signal.SIGCONT)

    return Stopped()


def dial(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return sock


# What is not QMP


def test_a_monitor_of_the_other_kind_greets_and_is_none(vm_factory, tmp_path):
    path = tmp_path / "m"
    chardev = f"socket,id=hmp,path={path},server=on,wait=off"
    vm = vm_factory(args=("-chardev", chardev, "-mon", "chardev=hmp,mode=readline"))
    sock = dial(path)
    with pytest.raises(ConnectError):
        Client.from_socket(sock, timeout=10)
    assert sock.fileno() == -1
    assert vm.qmp.execute("query-status")["running"]


def test_a_port_of_the_guests_says_nothing(vm_factory, tmp_path):
    path = tmp_path / "m"
    vm_factory(
        args=("-chardev", f"socket,id=silent,path={path},server=on,wait=off", "-serial", "chardev:silent")
    )
    with pytest.raises(ConnectError):
        Client.from_socket(dial(path), timeout=0.1)


@pytest.mark.parametrize("said", [b"garbage\n", b'{"execute": "query-status"', b"\xff\xfe\x00", b"[" * 2000])
def test_garbage_before_us_on_the_same_socket_is_told_or_survived(vm, said):
    sock = dial(vm.monitor_path)
    sock.sendall(said)
    try:
        with Client.from_socket(sock, timeout=0.2) as client:
            client.execute("query-status")
    except (ConnectError, QmpDisconnected, QmpTimeout):
        pass
    assert sock.fileno() == -1
    # QEMU thinks none the worse of the next.
    with connect(vm.name) as client:
        assert client.execute("query-status") == vm.qmp.execute("query-status")


def test_what_no_json_can_carry_is_refused_here(qmp):
    with pytest.raises(InvalidArguments):
        qmp.execute("qom-list", {"path": "\ud800"})
    with pytest.raises(InvalidArguments):
        qmp.execute("set_link", {"name": "x", "up": float("nan")})
    assert qmp.execute("query-status")["running"]


# Long, split and joined


@pytest.mark.qemuvm_allow("human-monitor-command")
def test_a_reply_of_300_kib_arrives_whole(qmp):
    dump = qmp.execute("human-monitor-command", {"command-line": "xp /30000xw 0"})
    assert len(dump) > 300 * 1024
    *_, last = dump.split("\r\n")[:-1]
    assert last.startswith(f"{(30000 - 4) * 4:016x}: ")
    assert qmp.execute("query-status")["running"]


def test_many_replies_in_one_packet_find_their_callers(qmp, stopped):
    """QEMU finds all commands at once when it goes on, and answers them in one breath."""

    async def ask():
        commands = ("query-status", "query-version", "query-name", "query-target") * 25
        with stopped:
            asked = [asyncio.ensure_future(qmp.aio.execute(command)) for command in commands]
            await asyncio.wait(asked, timeout=0.01)
            assert not any(each.done() for each in asked)
        return commands, await asyncio.gather(*asked)

    commands, answers = asyncio.run(ask())
    for command, answer in zip(commands, answers, strict=True):
        assert answer == qmp.execute(command)


def test_a_storm_of_events_is_whole_and_in_order(qmp):
    since, rounds = qmp.events.last, 250
    for _ in range(rounds):
        qmp.execute("stop")
        qmp.execute("cont")
    seen = qmp.events.since(since)
    assert [event.name for event in seen] == ["STOP", "RESUME"] * rounds
    assert [event.seq for event in seen] == list(range(since + 1, since + 2 * rounds + 1))


# Late, and to nobody


def test_a_reply_to_nobody_is_dropped(qmp, stopped):
    with stopped:
        for _ in range(3):
            with pytest.raises(QmpTimeout):
                qmp.execute("query-name", timeout=0.01)
        with pytest.raises(QmpTimeout):
            asyncio.run(qmp.aio.execute("query-name", timeout=0.01))
    assert "qemu" in qmp.execute("query-version")
    assert qmp.execute("query-status")["running"]


def test_a_command_that_timed_out_may_have_been_carried_out(qmp, stopped):
    with stopped, pytest.raises(QmpTimeout) as caught:
        qmp.execute("stop", timeout=0.01)
    assert "outcome unknown" in caught.value.details
    qmp.wait_event("STOP")
    assert qmp.execute("query-status")["status"] == "paused"


# The end in mid-command


@pytest.mark.qemuvm_expect("vm_state_mismatch")
def test_a_kill_in_mid_command_ends_everybodys_wait(qmp, vm, stopped, in_thread):
    pid, hold = vm.pid, threading.Barrier(4)

    def ask(act, *what):
        hold.wait(10)
        return act(*what, timeout=600)

    acts = [(qmp.execute, "query-status"), (qmp.execute, "query-name"), (qmp.wait_event, "NEVER")]
    os.kill(pid, signal.SIGSTOP)
    waiting = [in_thread(ask, *act) for act in acts]
    hold.wait(10)
    os.kill(pid, signal.SIGKILL)
    for each in waiting:
        with pytest.raises(QmpDisconnected):
            each.result(30)
    assert not qmp.connected


def test_a_client_that_leaves_in_mid_command(vm, stopped, in_thread):
    client = connect(vm.name)
    with stopped:
        waits = [in_thread(client.execute, "query-name", timeout=600), in_thread(client.wait_event, "NEVER")]
        with pytest.raises(QmpTimeout):
            client.execute("query-version", timeout=0.05)
        client.close()
        for wait in waits:
            with pytest.raises(QmpDisconnected):
                wait.result(30)
    # Neither QEMU nor the next client is the worse for it.
    with connect(vm.name) as another:
        assert another.execute("query-status") == vm.qmp.execute("query-status")


@pytest.mark.qemuvm_expect("vm_state_mismatch")
def test_a_kill_while_the_greeting_is_awaited(vm, in_thread):
    pid = vm.pid
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    connecting = in_thread(Client.from_socket, dial(vm.monitor_path), timeout=600)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises((ConnectError, QmpDisconnected)):
        connecting.result(30)


# Where the socket is


def test_a_path_that_is_too_long_is_told_before_anything_is_dialled(vm, qemuvm):
    found = find_vm(vm.name, qemuvm.tag)
    path = found.monitor.with_name("x" * 100)
    with pytest.raises(PathTooLong) as caught:
        open_monitor(found._replace(monitor=path), 10, Deadline.after(10))
    assert caught.value.path == str(path)


@pytest.mark.parametrize("mode", [0o710, 0o702, 0o755, 0o777])
def test_a_directory_that_others_can_use_is_used_by_nobody(vm, qemuvm, mode):
    qemuvm.root.chmod(mode)
    try:
        with pytest.raises(UnsafeDirectory):
            connect(vm.name)
    finally:
        qemuvm.root.chmod(0o700)
    with connect(vm.name) as client:
        assert client.execute("query-status")["running"]
