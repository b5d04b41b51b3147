"""Whole workflows, from a template to nothing left."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_qemuvm import NicSpec
from pytest_qemuvm.errors import TemplateInUse, VMNotFound


def fds():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("base", ["bare", "tiny"])
def test_from_a_template_to_nothing_left(
    template_factory, vm_factory, disk_factory, qemuvm, coherence, image, base
):
    before = (qemuvm.vms(), qemuvm.disks(), qemuvm.templates())
    boot = "none" if base == "bare" else None  # there is nothing on the image that would let a disk go
    template = template_factory("flow", base=base, image=image, format="qcow2", memory="192M", boot=boot)
    vm = vm_factory("flow-vm", template=template, start=False)
    disk = disk_factory(name="flow-disk", template=template)
    vm.start()
    pid = vm.pid
    vm.attach(disk)
    assert (disk.holder, vm.state) == ("flow-vm", "running")
    assert coherence.check() == []
    vm.detach(disk)
    assert (disk.holder, vm.pid) == (None, pid)
    vm.stop()
    assert coherence.check() == []
    run_dir, path = vm.run_dir, disk.path
    with pytest.raises(TemplateInUse):
        template.delete()
    vm.delete()
    disk.delete()
    template.delete()
    with pytest.raises(VMNotFound):
        qemuvm.vm("flow-vm")
    assert not run_dir.exists()
    assert not path.exists()
    assert not Path(f"/proc/{pid}").exists()
    assert (qemuvm.vms(), qemuvm.disks(), qemuvm.templates()) == before
    assert coherence.check() == []


def test_rounds_leave_no_descriptor(template_factory, vm_factory, disk_factory, image):
    def once():
        template = template_factory("round", base="bare", image=image, format="qcow2")
        vm, disk = vm_factory(template=template), disk_factory(template=template)
        vm.attach(disk)
        vm.delete()
        disk.delete()
        template.delete()

    once()
    before = fds()
    for _ in range(5):
        once()
    assert fds() == before


def test_several_vms_of_one_template_at_once_have_nothing_in_common(template_factory, vm_factory, image):
    template = template_factory(
        "many", base="bare", image=image, format="qcow2", nics=[NicSpec(forward=(80,))]
    )
    vms = [vm_factory(template=template, start=False) for _ in range(4)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda vm: vm.start(), vms))
    for differs in ("pid", "run_dir", "name"):
        assert len({getattr(vm, differs) for vm in vms}) == 4
    assert len({vm.nics[0].mac for vm in vms}) == 4
    assert len({vm.port(80) for vm in vms}) == 4
    assert len({vm.plan.images[0].path for vm in vms}) == 4
    assert set(template.users) == {vm.name for vm in vms}


def test_after_a_kill_behind_its_back_a_restart_works(
    template_factory, vm_factory, disk_factory, coherence, image
):
    template = template_factory("hit", base="bare", image=image, format="qcow2", boot="none")
    vm, disk = vm_factory(template=template), disk_factory(template=template)
    vm.attach(disk)
    pid = vm.pid
    os.kill(pid, signal.SIGKILL)
    vm.wait_stopped()
    assert (vm.state, vm.record.state) == ("stopped", "running")
    assert [finding.kind for finding in coherence.check()] == ["vm_state_mismatch"]
    vm.restart()
    assert coherence.check() == []
    assert (vm.state, vm.record.state, vm.pid != pid) == ("running", "running", True)
    assert (disk.state, disk.holder) == ("available", None)
    vm.attach(disk)
    vm.detach(disk)


def test_threads_that_make_and_delete_agree_on_who_was_first(template_factory, disk_factory, image):
    for number in range(10):
        template = template_factory(f"race{number}", base="bare", image=image, format="qcow2")
        with ThreadPoolExecutor(2) as pool:
            made = pool.submit(disk_factory, template=template)
            gone = pool.submit(template.delete)
        assert (made.exception() is None) != (gone.exception() is None)
