"""A machine of the test's own: booted before the test, gone after it."""

import pytest

from pytest_qemuvm.errors import GuestCommandError, GuestCommandTimeout


def test_it_is_a_real_linux(vm):
    assert vm.run("uname -s").stdout == "Linux\n"


def test_output_errors_and_status_come_apart(vm):
    result = vm.run("echo fine; echo 'not so fine' >&2; exit 3", check=False)
    assert result.stdout == "fine\n"
    assert result.stderr == "not so fine\n"
    assert result.returncode == 3
    assert not result.ok


def test_a_command_that_fails_fails_the_test_unless_told_otherwise(vm):
    with pytest.raises(GuestCommandError) as caught:
        vm.run("cat /nonexistent")
    assert "No such file" in caught.value.result.stderr


def test_a_command_that_hangs_is_killed_and_the_machine_goes_on(vm):
    with pytest.raises(GuestCommandTimeout) as caught:
        vm.run("echo started; sleep 1000", timeout=1)
    assert caught.value.result.stdout == "started\n"
    assert vm.run("pgrep -f 'sleep 1000'", check=False).stdout == ""


def test_something_takes_its_time(vm):
    vm.run("(sleep 0.3; echo ready >/tmp/state) >/dev/null 2>&1 &")
    vm.wait_for_file("/tmp/state")
    assert vm.wait_until_succeeds("grep ready /tmp/state").ok
