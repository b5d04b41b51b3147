"""Unplugs that QEMU does not finish: the device goes, and what was behind it is held by something else.

The error says what is left, nothing is called gone that is there, and the next unplug or a stop finishes the
work.
"""

import os
import signal
import subprocess
import threading

import pytest
from qemu_graph import graph

from pytest_qemuvm import CdromSpec, DiskSpec
from pytest_qemuvm.devices.kind import DeviceKind
from pytest_qemuvm.devices.steps import AddBlockNode, AddDevice, Command, Fragment
from pytest_qemuvm.errors import (
    AlreadyAttached,
    DiskStateError,
    InUse,
    NotAttached,
    SpecError,
    UnplugIncomplete,
    WaitTimeout,
)
from pytest_qemuvm.spec.devices import DeviceSpec


@pytest.fixture
def vm_spec():
    return {"template": "bare"}


def nodes(vm):
    return {node["node-name"] for node in vm.qmp.execute("query-named-block-nodes")}


def hold(vm, node):
    """Make a node of the test's own refer to one of the harness's."""
    arguments = {"driver": "raw", "node-name": "mine", "file": node, "read-only": True}
    vm.qmp.execute("blockdev-add", arguments)


def release(vm):
    vm.qmp.execute("blockdev-del", {"node-name": "mine"})


@pytest.mark.parametrize("bus", ["virtio", "scsi"])
@pytest.mark.parametrize(("held", "left"), [("fmt", ("fmt", "file")), ("file", ("file",))])
def test_a_node_that_is_held_is_named_and_removed_by_the_next_unplug(vm_factory, bus, held, left):
    vm = vm_factory()
    before = graph(vm)
    device = vm.hotplug(DiskSpec("1M", bus=bus))
    hold(vm, f"{device.id}-{held}")
    for _ in range(2):
        with pytest.raises(UnplugIncomplete) as caught:
            device.unplug()
        assert caught.value.device == device.id
        assert caught.value.left == device.left == tuple(f"{device.id}-{node}" for node in left)
        assert f"{device.id}-{held}" in caught.value.brief
        assert vm.devices == ()
        assert not device.present
        assert graph(vm)["devices"] == before["devices"]
        assert nodes(vm) - before["nodes"] == {*device.left, "mine"}
        assert device.path.exists()
    vm.hotplug(DiskSpec("1M", bus=bus)).unplug()
    release(vm)
    device.unplug()
    assert device.left == ()
    assert graph(vm) == before
    with pytest.raises(NotAttached):
        device.unplug()


def test_a_disk_that_a_block_job_reads_is_let_go_when_the_job_is(vm_factory):
    vm = vm_factory()
    before = graph(vm)
    device = vm.hotplug(DiskSpec("64M"))
    vm.qmp.execute("blockdev-add", {"driver": "null-co", "node-name": "target", "size": 64 * 1024**2})
    job = {"job-id": "copy", "device": f"{device.id}-fmt", "target": "target", "sync": "full", "speed": 1}
    vm.qmp.execute("blockdev-backup", job)
    with pytest.raises(UnplugIncomplete):
        device.unplug()
    assert f"{device.id}-fmt" in device.left
    with vm.qmp.expect_event("JOB_STATUS_CHANGE", {"id": "copy", "status": "null"}):
        vm.qmp.execute("job-cancel", {"id": "copy"})
    vm.qmp.execute("blockdev-del", {"node-name": "target"})
    device.unplug()
    assert graph(vm) == before


def test_what_the_test_removed_itself_meanwhile_counts_as_removed(vm_factory):
    vm = vm_factory()
    before = graph(vm)
    device = vm.hotplug(DiskSpec("1M"))
    hold(vm, f"{device.id}-fmt")
    with pytest.raises(UnplugIncomplete):
        device.unplug()
    release(vm)
    vm.qmp.execute("blockdev-del", {"node-name": f"{device.id}-fmt"})
    device.unplug()
    assert graph(vm) == before


def test_a_disk_is_its_holders_until_its_file_is_let_go(vm_factory, disk_factory):
    vm, other, disk = vm_factory("holder"), vm_factory(), disk_factory()
    device = vm.attach(disk)
    hold(vm, f"{device.id}-file")
    with pytest.raises(UnplugIncomplete):
        vm.detach(disk)
    assert vm.devices == ()
    assert (disk.state, disk.holder) == ("attached", "holder")
    with pytest.raises(AlreadyAttached):
        other.attach(disk)
    for change in (disk.delete, lambda: disk.resize("1G")):
        with pytest.raises(InUse) as caught:
            change()
        assert caught.value.holder == "holder"
    release(vm)
    vm.detach(disk)
    assert (disk.state, disk.holder) == ("available", None)
    subprocess.run(["qemu-io", "-c", "write 0 64k", disk.path], check=True, capture_output=True)
    other.attach(disk)


def test_a_stop_cleans_what_an_unplug_left(vm_factory, disk_factory):
    vm, disk = vm_factory(), disk_factory()
    files = graph(vm)["files"]
    own, attached = vm.hotplug(DiskSpec("1M")), vm.attach(disk)
    hold(vm, f"{own.id}-file")
    with pytest.raises(UnplugIncomplete):
        own.unplug()
    release(vm)
    hold(vm, f"{attached.id}-file")
    with pytest.raises(UnplugIncomplete):
        vm.detach(disk)
    vm.restart()
    assert own.left == attached.left == ()
    assert (disk.state, disk.holder) == ("available", None)
    assert graph(vm)["files"] == files
    with pytest.raises(NotAttached):
        own.unplug()


def test_leaving_the_block_finishes_an_unplug_that_was_not_finished_in_it(vm_factory):
    vm = vm_factory()
    before = graph(vm)
    with vm.hotplug(DiskSpec("1M")) as device:
        hold(vm, f"{device.id}-file")
        with pytest.raises(UnplugIncomplete):
            device.unplug()
        release(vm)
    assert graph(vm) == before


def test_a_medium_that_is_held_is_out_of_the_drive_and_goes_with_the_next_eject(vm_factory, tmp_path):
    vm = vm_factory()
    before = graph(vm)
    medium = tmp_path / "medium.iso"
    medium.write_bytes(bytes(4096))
    with vm.hotplug(CdromSpec(medium)) as drive:
        hold(vm, f"{drive.id}-file")
        with pytest.raises(DiskStateError) as caught:
            drive.eject()
        assert f"{drive.id}-file" in caught.value.brief
        release(vm)
        drive.change_medium(medium)
        assert f"{drive.id}-file" not in nodes(vm)
    assert graph(vm) == before


class HoldingSpec(DeviceSpec):
    """A device that cannot be, on a node that something holds that the harness does not undo."""


class Held(AddBlockNode):
    def unplug(self):
        return Command("query-version", {})


def holding(_spec, supplies):
    name = supplies.place.id
    steps = (
        AddBlockNode("null-co", f"{name}-null", {"size": 1024**2}),
        Held("raw", "mine", {"file": f"{name}-null"}),
        AddDevice("virtio-blk-pci", name, supplies.place.on_bus(drive="no-such-node")),
    )
    return Fragment(name, "holding", steps)


def test_a_plug_that_cannot_be_taken_back_whole_says_what_is_left(vm_factory):
    vm = vm_factory(hotplug_slots=1)
    vm._live.hotplug._kinds = (DeviceKind("holding", HoldingSpec, lambda _spec: "slot", holding),)
    before = graph(vm)
    with pytest.raises(SpecError) as caught:
        vm.hotplug(HoldingSpec())
    assert "holding0-null" in caught.value.__notes__[0]
    assert vm.devices == ()
    assert nodes(vm) - before["nodes"] == {"mine", "holding0-null"}
    assert graph(vm)["devices"] == before["devices"]


def test_nobody_who_only_looks_waits_for_a_plug(vm_factory, disk_factory, qemuvm):
    vm, disk = vm_factory(), disk_factory()
    os.kill(vm.pid, signal.SIGSTOP)
    plug = threading.Thread(target=vm.attach, args=(disk,), kwargs={"timeout": 20})
    try:
        plug.start()
        while not disk._changing.locked():
            assert plug.is_alive()
        looks = [disk.state, disk.holder, disk in qemuvm.disks(state="available"), repr(disk), vm.devices]
        with pytest.raises(WaitTimeout):
            vm_factory().attach(disk, timeout=0.1)
        assert plug.is_alive()
    finally:
        os.kill(vm.pid, signal.SIGCONT)
        plug.join()
    assert looks[:3] == ["available", None, True]
    assert "available" in looks[3]
    assert looks[4] == ()
    assert disk.state == "attached"
