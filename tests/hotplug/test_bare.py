"""Hot-plug without a guest: PCI devices are let go by playing the guest; QEMU's own graph is looked into."""

import pytest
from qemu_graph import graph

from pytest_qemuvm import (
    CdromSpec,
    CpuSpec,
    DiskSpec,
    DriverSpec,
    MemorySpec,
    NicSpec,
    RngSpec,
    SerialSpec,
    UsbSpec,
)
from pytest_qemuvm.errors import NoFreeSlot, NotAttached, NotRunning, SpecError

KINDS = {
    "virtio-blk": DiskSpec("16M", serial="data"),
    "scsi": DiskSpec("16M", bus="scsi"),
    "nvme": DiskSpec("16M", bus="nvme"),
    "usb-storage": DiskSpec("16M", bus="usb"),
    "raw": DiskSpec("16M", format="raw", read_only=True),
    "virtio-net": NicSpec(forward=22),
    "e1000e": NicSpec(model="e1000e"),
    "usb-kbd": UsbSpec(),
    "serial": SerialSpec("metrics"),
    "rng": RngSpec(),
    "empty-cdrom": CdromSpec(),
    "cdrom": CdromSpec(__file__),
    "driver-pci": DriverSpec("edu", {"dma_mask": 0xFFFF}),
    "driver-virtio": DriverSpec("virtio-balloon-pci"),
    "driver-usb": DriverSpec("usb-tablet", bus="usb"),
    "driver-scsi": DriverSpec("scsi-cd", bus="scsi"),
    "driver-serial": DriverSpec("virtserialport", {"name": "own"}, bus="virtio-serial"),
}


@pytest.fixture
def vm_spec():
    return {"template": "bare"}


@pytest.mark.parametrize("machine", ["q35", "pc"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_comes_and_goes_without_a_trace(vm_factory, kind, machine):
    vm = vm_factory(machine=machine)
    before, pid = graph(vm), vm.pid
    with vm.hotplug(KINDS[kind]) as device:
        assert vm.devices == (device,)
        assert device.id in graph(vm)["devices"]
    assert vm.devices == ()
    assert graph(vm) == before
    assert vm.pid == pid
    with pytest.raises(NotAttached):
        device.unplug()


def test_several_of_all_kinds_go_in_any_order_and_ids_are_never_used_again(vm_factory):
    vm = vm_factory(hotplug_slots=8)
    before = graph(vm)
    devices = [vm.hotplug(spec) for spec in KINDS.values()]
    for device in (*devices[::2], *devices[-1::-2]):
        device.unplug()
    again = vm.hotplug(KINDS["virtio-blk"])
    assert again.id not in {device.id for device in devices}
    again.unplug()
    assert graph(vm) == before


def test_slots_run_out_with_a_word_on_how_to_get_more_and_come_back(vm_factory):
    vm = vm_factory(hotplug_slots=2)
    first, _second = vm.hotplug(RngSpec()), vm.hotplug(RngSpec())
    with pytest.raises(NoFreeSlot) as caught:
        vm.hotplug(RngSpec())
    assert "hotplug_slots=" in caught.value.hint
    first.unplug()
    vm.hotplug(RngSpec())


def test_devices_from_the_command_line_keep_their_slots_and_ids(vm_factory):
    vm = vm_factory(disks=[DiskSpec("1M")], hotplug_slots=1)
    assert vm.hotplug(DiskSpec("1M")).id == "disk1"
    with pytest.raises(NoFreeSlot):
        vm.hotplug(RngSpec())


def test_devices_from_the_command_line_are_unplugged_like_others_and_back_after_a_restart(vm_factory):
    vm = vm_factory(disks=[DiskSpec("1M"), DiskSpec("1M", bus="scsi")], nics=[NicSpec()], hotplug_slots=0)
    assert [device.id for device in vm.devices] == ["disk0", "disk1", "nic0"]
    for device in vm.devices:
        device.unplug()
    assert vm.devices == ()
    vm.hotplug(RngSpec())
    vm.restart()
    assert [device.id for device in vm.devices] == ["disk0", "disk1", "nic0"]


def test_what_qemu_refuses_is_rolled_back(vm_factory):
    vm = vm_factory()
    vm.hotplug(SerialSpec("one"))
    before = graph(vm)
    with pytest.raises(SpecError):
        vm.hotplug(SerialSpec("one"))  # a second port of that name
    assert graph(vm) == before
    assert len(vm.devices) == 1


def test_what_is_nothing_to_plug_and_where_nothing_can_be_plugged(vm_factory):
    vm = vm_factory()
    with pytest.raises(SpecError):
        vm.hotplug("a disk")
    with pytest.raises(NoFreeSlot):
        vm_factory(machine="microvm").hotplug(RngSpec())
    vm.stop()
    with pytest.raises(NotRunning):
        vm.hotplug(RngSpec())


def test_memory_and_processors_come_without_a_guest(vm_factory):
    vm = vm_factory()
    vm.hotplug(MemorySpec("128M"))
    assert vm.qmp.execute("query-memory-size-summary")["plugged-memory"] == 128 * 1024**2
    for count in (2, 3, 4):
        vm.hotplug(CpuSpec())
        assert len(vm.qmp.execute("query-cpus-fast")) == count
    with pytest.raises(NoFreeSlot):
        vm.hotplug(CpuSpec())
    with pytest.raises(ValueError, match="128M"):
        MemorySpec("100M")


def test_a_medium_goes_in_and_out(vm_factory, tmp_path):
    vm = vm_factory()
    before = graph(vm)
    media = [tmp_path / "one.iso", tmp_path / "two.iso"]
    for medium in media:
        medium.write_bytes(bytes(4096))
    with vm.hotplug(CdromSpec(media[0])) as drive:

        def inserted():
            (found,) = (entry for entry in vm.qmp.execute("query-block") if entry["qdev"] == drive.id)
            return found["inserted"]["file"] if "inserted" in found else None

        assert inserted() == str(media[0])
        drive.change_medium(media[1])
        assert inserted() == str(media[1])
        drive.eject()
        drive.eject()
        assert inserted() is None
        drive.change_medium(media[0])
        with pytest.raises(SpecError):
            drive.change_medium(tmp_path / "three.iso")
        assert inserted() == str(media[0])
    assert graph(vm) == before
    with pytest.raises(NotAttached):
        drive.eject()


def test_resizable_memory_is_there_without_a_guest_to_take_it(vm_factory):
    vm = vm_factory()
    with vm.hotplug(MemorySpec("512M", kind="virtio-mem")) as device:
        (found,) = vm.qmp.execute("query-memory-devices")
        assert found["data"]["requested-size"] == 512 * 1024**2
        device.resize("128M")
        with pytest.raises(SpecError):
            device.resize("1G")
        with pytest.raises(SpecError):
            device.resize("100M")
    (found,) = vm.qmp.execute("query-memory-devices")
    assert found["data"]["requested-size"] == 0


def test_a_plugged_device_is_gone_with_its_machine(vm_factory):
    vm = vm_factory()
    device = vm.hotplug(DiskSpec("1M"))
    vm.restart()
    assert vm.devices == ()
    with pytest.raises(NotAttached):
        device.unplug()


def test_a_hundred_rounds_over_all_kinds_leave_graph_and_descriptors_as_they_were(vm_factory):
    from pathlib import Path

    vm = vm_factory()
    for spec in KINDS.values():
        vm.hotplug(spec).unplug()
    before, files = graph(vm), len(list(Path(f"/proc/{vm.pid}/fd").iterdir()))
    for _ in range(10):
        for spec in KINDS.values():
            vm.hotplug(spec).unplug()
    assert graph(vm) == before
    assert len(list(Path(f"/proc/{vm.pid}/fd").iterdir())) == files
