"""The machine from outside: its monitor tells what QEMU sees, and when something happens."""

import pytest

from pytest_qemuvm.errors import CommandError


def test_what_qemu_knows_of_the_machine(vm):
    assert vm.qmp.execute("query-status")["status"] == "running"
    assert len(vm.qmp.execute("query-cpus-fast")) == 1
    version = vm.qmp.execute("query-version")["qemu"]
    assert (version["major"], version["minor"]) >= (7, 2)


def test_a_paused_machine_answers_the_monitor_and_nobody_else(vm):
    before = vm.run("cat /proc/uptime").stdout
    vm.pause()
    assert vm.state == "paused"
    vm.resume()
    assert float(vm.run("cat /proc/uptime").stdout.split()[0]) >= float(before.split()[0])


def test_an_event_is_awaited_around_the_act(vm):
    with vm.qmp.expect_event("RESET", {"guest": False}) as expected:
        vm.qmp.execute("system_reset")
    assert expected.event.data["reason"] == "host-qmp-system-reset"


def test_a_command_that_qemu_refuses_says_why(vm):
    with pytest.raises(CommandError) as caught:
        vm.qmp.execute("device_del", {"id": "nobody"})
    assert caught.value.class_ == "DeviceNotFound"
