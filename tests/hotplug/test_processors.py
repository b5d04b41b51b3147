"""Processors that come and go, and what QEMU's emulator bears after one has gone."""

import pytest

from pytest_qemuvm import CpuSpec, DiskSpec, RngSpec, SerialSpec, UsbSpec
from pytest_qemuvm.errors import NoFreeSlot, VMStateError
from pytest_qemuvm.machine.processors import SOUND_SINCE, emulates

pytestmark = pytest.mark.qemuvm(needs="real")

CHANGES = {
    "have a rng plugged": lambda vm, _path: vm.hotplug(RngSpec()),
    "have a cpu plugged": lambda vm, _path: vm.hotplug(CpuSpec()),
    "be reset": lambda vm, _path: vm.reset(),
    "be saved": lambda vm, _path: vm.snapshot("after"),
    "show its screen": lambda vm, path: vm.screenshot(path / "screen.png"),
}


def breaks(vm):
    return emulates(vm.live) and vm.qmp.greeting["version"]["qemu"]["major"] < SOUND_SINCE


def test_what_would_end_qemu_is_refused_and_all_else_goes_on(vm, tmp_path):
    disk = vm.hotplug(DiskSpec("1M"))
    vm.hotplug(CpuSpec()).unplug()
    for what, change in CHANGES.items():
        if breaks(vm):
            with pytest.raises(VMStateError, match=f"cannot {what} once a processor was unplugged") as told:
                change(vm, tmp_path)
            assert "restart()" in told.value.hint
        else:
            change(vm, tmp_path)
    if breaks(vm):
        with pytest.raises(VMStateError, match="unplugged: under TCG"):
            disk.unplug()
        assert disk.present
    for spec in (
        DiskSpec("1M", bus="scsi"),
        DiskSpec("1M", bus="usb"),
        UsbSpec("tablet"),
        SerialSpec("late"),
    ):
        with vm.hotplug(spec):
            vm.run("true")


def test_two_may_go_one_after_the_other_and_a_restart_makes_the_machine_whole(vm):
    with vm.hotplug(CpuSpec()), vm.hotplug(CpuSpec()):
        pass
    assert vm.run("nproc").stdout == "1\n"
    vm.restart()
    with vm.hotplug(CpuSpec()), vm.hotplug(RngSpec()):
        assert vm.run("nproc").stdout == "2\n"


def test_a_socket_is_not_used_twice_where_qemu_cannot(vm):
    if breaks(vm):
        vm.hotplug(CpuSpec()).unplug()
        with pytest.raises(VMStateError, match="have a cpu plugged"):
            vm.hotplug(CpuSpec())
        return
    sockets = len(vm.qmp.execute("query-hotpluggable-cpus"))
    for _ in range(sockets - 1):
        vm.hotplug(CpuSpec()).unplug()
    if emulates(vm.live):
        with pytest.raises(NoFreeSlot, match=f"has had {sockets} of them"):
            vm.hotplug(CpuSpec())
    else:
        vm.hotplug(CpuSpec()).unplug()
    assert vm.run("nproc").stdout == "1\n"
