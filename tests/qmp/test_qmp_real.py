"""The same against a real QEMU, as far as it can be brought to do it."""

import os
import signal
import socket
import threading

import pytest

from pytest_qemuvm.errors import CommandError, ConnectError, QmpDisconnected, QmpTimeout
from pytest_qemuvm.qmp import Client


def stop_process(machine):
    """Stop QEMU in its tracks, and return when it really has stopped."""
    os.kill(machine.process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, machine.process.pid, os.WSTOPPED | os.WNOWAIT)


def test_status_and_greeting(monitor):
    assert monitor.execute("query-status")["status"] == "prelaunch"
    assert monitor.greeting["version"]["qemu"]["major"] >= 7


def test_schema_is_longer_than_any_buffer(monitor):
    assert len(monitor.execute("query-qmp-schema")) > 1000


def test_stop_and_cont_are_in_the_log_when_they_return(monitor):
    for number in range(20):
        monitor.execute("cont")
        assert [event.name for event in monitor.events.since(2 * number)] == ["RESUME"]
        monitor.execute("stop")
        assert [event.name for event in monitor.events.since(2 * number)] == ["RESUME", "STOP"]


def test_refusals_carry_qemus_class(monitor):
    with pytest.raises(CommandError) as caught:
        monitor.execute("no-such-command")
    assert caught.value.class_ == "CommandNotFound"
    with pytest.raises(CommandError) as caught:
        monitor.execute("device_del", {"id": "nobody"})
    assert caught.value.class_ == "DeviceNotFound"


def test_text_that_qemu_cannot_parse_fails_that_call_alone(monitor):
    with pytest.raises(CommandError):
        monitor.execute("qom-list", {"path": "\uffff"})
    assert monitor.execute("query-name") == {}


def test_expected_event_around_a_reset(monitor):
    with monitor.expect_event("RESET", {"reason": "host-qmp-system-reset"}) as seen:
        monitor.execute("system_reset")
    assert seen.event.data["guest"] is False


def test_last_words_of_a_quitting_qemu(monitor, machine):
    with monitor.expect_event("SHUTDOWN") as seen:
        monitor.execute("quit")
    assert seen.event.data["reason"] == "host-qmp-quit"
    with pytest.raises(QmpDisconnected) as caught:
        monitor.wait_event("NEVER")
    assert caught.value.status == 0


@pytest.mark.parametrize("act", ["execute", "wait_event"])
def test_kill_ends_a_wait_at_once(monitor, machine, in_thread, act):
    stop_process(machine)
    waiting = in_thread(getattr(monitor, act), "query-status" if act == "execute" else "STOP", timeout=60)
    machine.process.kill()
    with pytest.raises(QmpDisconnected) as caught:
        waiting.result(5)
    assert caught.value.status == -9
    assert not monitor.connected


def test_term_is_only_told_by_its_event(monitor, machine):
    with monitor.expect_event("SHUTDOWN", {"reason": "host-signal"}):
        machine.process.terminate()
    with pytest.raises(QmpDisconnected) as caught:
        monitor.wait_event("NEVER")
    assert caught.value.status == 0


def test_stopped_qemu_times_out_and_is_usable_when_it_goes_on(monitor, machine):
    stop_process(machine)
    with pytest.raises(QmpTimeout):
        monitor.execute("query-version", timeout=0.05)
    machine.process.send_signal(signal.SIGCONT)
    assert monitor.execute("query-status")["status"] == "prelaunch"
    assert monitor.execute("query-name") == {}


def test_threads_do_not_get_each_others_replies(monitor, in_thread):
    barrier = threading.Barrier(4)

    def many(command, key):
        barrier.wait()
        return all(key in monitor.execute(command) for _ in range(100))

    asked = [
        ("query-status", "status"),
        ("query-version", "qemu"),
        ("query-kvm", "present"),
        ("query-target", "arch"),
    ]
    assert all(future.result(30) for future in [in_thread(many, *pair) for pair in asked])


def test_second_client_of_one_monitor_is_never_greeted(monitor, machine, loop):
    def dial():
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(machine.second_monitor)
        return sock

    with Client.from_socket(dial(), timeout=10, loop=loop) as first:
        with pytest.raises(ConnectError):
            Client.from_socket(dial(), timeout=0.1, loop=loop)
        assert first.execute("query-status") == monitor.execute("query-status")


def test_two_monitors_both_hear_an_event(monitor, machine, loop):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(machine.second_monitor)
    with Client.from_socket(sock, timeout=10, loop=loop) as other, other.expect_event("RESUME") as seen:
        monitor.execute("cont")
    assert [event.name for event in monitor.events] == [seen.event.name]
