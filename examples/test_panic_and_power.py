"""A guest that panics or switches itself off ends a wait at once, and says so."""

import pytest

from pytest_qemuvm.errors import NotRunning, VMStateError


def test_a_panic_is_noticed_while_a_command_runs(vm):
    # While the text console moves to the screen, just after the boot, the kernel cannot print its last words.
    vm.wait_for_file("/run/qemuvm/settled")
    with pytest.raises(VMStateError, match="panicked") as caught:
        vm.run("echo c >/proc/sysrq-trigger; sleep 1000", timeout=300)
    assert vm.state == "guest-panicked"
    assert "sysrq" in caught.value.details


def test_a_guest_may_switch_itself_off(vm):
    with pytest.raises(NotRunning):
        vm.run("poweroff; sleep 1000", timeout=300)
    vm.wait_stopped()
    assert vm.state == "stopped"


def test_the_power_button_and_a_new_start(vm):
    vm.write_text("/tmp/gone", "the built-in guest lives in memory")
    vm.stop()
    assert vm.stopped_by == "powerdown"
    vm.start()
    assert not vm.run("test -e /tmp/gone", check=False).ok


def test_the_reset_button(vm):
    boot = "cat /proc/sys/kernel/random/boot_id"
    before = vm.run(boot).stdout
    vm.reset()
    assert vm.run(boot).stdout != before
