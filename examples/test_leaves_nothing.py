"""What a test leaves behind is found at its end; these look before, or say what they leave."""

import os
import signal

import pytest

from pytest_qemuvm.errors import QmpDisconnected

pytestmark = pytest.mark.qemuvm(template="bare")


def test_a_tool_that_forgets_a_block_node_is_found_out(vm, coherence):
    vm.qmp.execute("blockdev-add", {"driver": "null-co", "node-name": "scratch"})
    (finding,) = coherence.check()
    assert finding.kind == "leaked_block_node"
    assert "scratch" in finding.resource
    vm.qmp.execute("blockdev-del", {"node-name": "scratch"})
    assert coherence.check() == []


@pytest.mark.qemuvm_expect("vm_state_mismatch")
def test_a_manager_notices_that_its_qemu_was_killed(vm):
    os.kill(vm.pid, signal.SIGKILL)
    with pytest.raises(QmpDisconnected) as caught:
        vm.qmp.wait_event("SHUTDOWN")
    assert caught.value.status == -signal.SIGKILL


def test_after_a_restart_all_is_as_recorded(vm, disk_factory, coherence):
    vm.attach(disk_factory())
    os.kill(vm.pid, signal.SIGKILL)
    vm.wait_stopped()
    assert {finding.kind for finding in coherence.check()} == {"vm_state_mismatch"}
    vm.restart()
    assert coherence.check() == []
