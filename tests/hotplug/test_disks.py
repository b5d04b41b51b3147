"""Disks: the file and its record cannot disagree, and a disk has one holder."""

import subprocess
import threading

import pytest

from pytest_qemuvm.errors import (
    AlreadyAttached,
    DiskExists,
    DiskNotFound,
    InUse,
    NotAttached,
    NotRunning,
    SpecError,
)


@pytest.fixture
def vm_spec():
    return {"template": "bare"}


def nodes(vm):
    return {node["node-name"] for node in vm.qmp.execute("query-named-block-nodes")}


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_the_file_is_there_with_that_size_when_the_call_returns(disk_factory, image_format):
    disk = disk_factory("3M", format=image_format)
    assert disk.path.is_file()
    if image_format == "raw":
        assert disk.path.stat().st_size == 3 * 1024**2
    else:
        subprocess.run(["qemu-img", "check", disk.path], check=True, capture_output=True)
    assert (disk.size, disk.state, disk.holder) == (3 * 1024**2, "available", None)
    assert disk.record.path == disk.path


@pytest.mark.parametrize("size", [0, -1, "512", "1X", 100])
def test_a_size_that_cannot_be_is_refused_and_no_record_made(disk_factory, qemuvm, size):
    before = qemuvm.disks()
    with pytest.raises(ValueError, match="size"):
        disk_factory(size)
    assert qemuvm.disks() == before


def test_an_unknown_format_and_a_bad_name_are_refused(disk_factory):
    with pytest.raises(SpecError):
        disk_factory(format="vmdk")
    with pytest.raises(SpecError):
        disk_factory(name="a/b")


def test_names_are_unique_and_looked_up(disk_factory, qemuvm):
    disk = disk_factory(name="data")
    assert qemuvm.disk("data") is disk
    with pytest.raises(DiskExists):
        disk_factory(name="data")
    with pytest.raises(DiskNotFound) as caught:
        qemuvm.disk("dato")
    assert "data" in caught.value.hint
    disk.delete()
    assert not disk.path.exists()
    with pytest.raises(DiskNotFound):
        qemuvm.disk("data")
    assert disk_factory(name="data").path.exists()


def test_a_disk_goes_from_one_vm_to_the_next(vm_factory, disk_factory, qemuvm):
    one, two, disk = vm_factory("one"), vm_factory("two"), disk_factory()
    pid = one.pid
    one.attach(disk)
    assert (disk.state, disk.holder) == ("attached", "one")
    assert disk in qemuvm.disks(state="attached")
    for vm in (one, two):
        with pytest.raises(AlreadyAttached) as caught:
            vm.attach(disk)
        assert caught.value.holder == "one"
    with pytest.raises(NotAttached):
        two.detach(disk)
    one.detach(disk)
    assert (disk.state, disk.holder, one.pid) == ("available", None, pid)
    # The file is free: whoever wants to write may.
    subprocess.run(["qemu-io", "-c", "write 0 64k", disk.path], check=True, capture_output=True)
    two.attach(disk, bus="scsi")
    assert disk.holder == "two"
    with pytest.raises(ValueError, match="no state"):
        qemuvm.disks(state="lost")


def test_properties_go_with_an_attach(vm_factory, disk_factory):
    vm, disk = vm_factory(), disk_factory()
    before = nodes(vm)
    device = vm.attach(disk, properties={"physical_block_size": 4096})
    place = {"path": f"/machine/peripheral/{device.id}", "property": "physical_block_size"}
    assert vm.qmp.execute("qom-get", place) == 4096
    vm.detach(disk)
    for properties in ({"physical_blok_size": 4096}, {"serial": "mine"}):
        with pytest.raises(SpecError):
            vm.attach(disk, properties=properties)
        assert disk.state == "available"
    assert nodes(vm) == before


def test_detaching_what_is_free_and_attaching_to_what_does_not_run(vm_factory, disk_factory):
    vm, disk = vm_factory(), disk_factory()
    with pytest.raises(NotAttached):
        vm.detach(disk)
    vm.stop()
    with pytest.raises(NotRunning):
        vm.attach(disk)
    assert disk.state == "available"


def test_a_disk_in_use_is_not_deleted(vm_factory, disk_factory):
    vm, disk = vm_factory("holder"), disk_factory()
    vm.attach(disk)
    with pytest.raises(InUse) as caught:
        disk.delete()
    assert caught.value.holder == "holder"
    assert disk.path.exists()


@pytest.mark.parametrize("end", ["stop", "kill", "delete", "restart"])
def test_when_its_vm_goes_a_disk_becomes_available(vm_factory, disk_factory, end):
    vm, disk = vm_factory(), disk_factory()
    vm.attach(disk)
    getattr(vm, end)()
    assert (disk.state, disk.holder) == ("available", None)


def test_several_disks_leave_in_any_order(vm_factory, disk_factory):
    vm = vm_factory()
    before = nodes(vm)
    disks = [disk_factory() for _ in range(4)]
    for disk, bus in zip(disks, ("virtio", "scsi", "nvme", "usb"), strict=True):
        vm.attach(disk, bus=bus)
    for disk in (disks[2], disks[0], disks[3], disks[1]):
        vm.detach(disk)
    assert nodes(vm) == before


def test_a_disk_may_be_shared_by_those_who_only_read(vm_factory, disk_factory):
    one, two, disk = vm_factory(), vm_factory(), disk_factory()
    one.attach(disk, read_only=True)
    two.attach(disk, read_only=True)
    with pytest.raises(AlreadyAttached):
        vm_factory().attach(disk)
    one.detach(disk)
    assert disk.state == "attached"
    two.detach(disk)
    assert disk.state == "available"


def test_of_two_threads_one_gets_the_disk(vm_factory, disk_factory):
    vms, disk, outcomes = [vm_factory(), vm_factory()], disk_factory(), []
    barrier = threading.Barrier(2)

    def attach(vm):
        barrier.wait()
        try:
            outcomes.append(vm.attach(disk))
        except AlreadyAttached as error:
            outcomes.append(error)

    threads = [threading.Thread(target=attach, args=(vm,)) for vm in vms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AlreadyAttached", "HotDevice"]


def test_a_file_that_another_process_writes_to_is_refused_and_nothing_left(vm_factory, disk_factory):
    vm, disk = vm_factory(), disk_factory()
    before = nodes(vm)
    command = ["qemu-io", disk.path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdin.write("info\n")
        other.stdin.flush()
        other.stdout.readline()
        with pytest.raises(InUse):
            vm.attach(disk)
        other.stdin.close()
    assert disk.state == "available"
    assert nodes(vm) == before
    vm.attach(disk)


def test_a_vm_starts_with_a_disk_and_has_it_again_after_a_restart(vm_factory, disk_factory):
    disk = disk_factory(name="given")
    vm = vm_factory("one", disks=[disk])
    assert (disk.state, disk.holder) == ("attached", "one")
    (node,) = (node for node in vm.qmp.execute("query-named-block-nodes") if node["node-name"] == "disk0-fmt")
    assert node["file"] == str(disk.path)
    with pytest.raises(AlreadyAttached) as caught:
        vm_factory("two", disks=disk)
    assert caught.value.holder == "one"
    vm.restart()
    assert disk.holder == "one"
    vm.detach(disk)
    assert disk.state == "available"
    vm.stop()
    vm.start()
    assert disk.holder == "one"
    vm.delete()
    assert disk.state == "available"
    assert disk.path.exists()


def test_a_wider_vm_outlives_a_disk_of_one_test(session_vm_factory, request):
    vm = session_vm_factory("wide", template="bare")
    disks = request.getfixturevalue("disk_factory")
    vm.attach(disks())


def test_and_has_it_no_more(qemuvm):
    assert qemuvm.vm("wide").devices == ()


@pytest.mark.qemuvm(needs="guest")
def test_with_a_guest_the_contents_travel(vm_factory, disk_factory):
    disk = disk_factory("16M", serial="travel")
    link = "/dev/disk/by-id/*travel"
    first = vm_factory(template="tiny")
    first.attach(disk)
    first.run(f"mke2fs -q $(ls {link}) && mount $(ls {link}) /mnt && echo cargo >/mnt/cargo && umount /mnt")
    first.detach(disk)
    first.delete()
    second = vm_factory(template="tiny")
    second.attach(disk, bus="nvme")
    second.run(f"mount $(ls {link}) /mnt")
    assert second.read_text("/mnt/cargo") == "cargo\n"
