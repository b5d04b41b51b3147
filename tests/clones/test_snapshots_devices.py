"""Going back to a snapshot without a guest: QEMU's own graph, and the ledger, are what they were."""

import pytest

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
from pytest_qemuvm.errors import (
    AlreadyAttached,
    CannotSave,
    DiskStateError,
    NotRunning,
    SnapshotExists,
    SnapshotNotFound,
    UnplugTimeout,
    VMStateError,
)

KINDS = {
    "virtio-blk": DiskSpec("16M", serial="data"),
    "scsi": DiskSpec("16M", bus="scsi"),
    "usb-storage": DiskSpec("16M", bus="usb"),
    "raw": DiskSpec("16M", format="raw", read_only=True),
    "virtio-net": NicSpec(forward=22),
    "e1000e": NicSpec(model="e1000e"),
    "usb-kbd": UsbSpec(),
    "serial": SerialSpec("metrics"),
    "rng": RngSpec(),
    "empty-cdrom": CdromSpec(),
    "cdrom": CdromSpec(__file__),
    "driver-pci": DriverSpec("pci-testdev"),
    "driver-virtio": DriverSpec("virtio-balloon-pci"),
    "driver-usb": DriverSpec("usb-tablet", bus="usb"),
    "driver-scsi": DriverSpec("scsi-cd", bus="scsi"),
    "driver-serial": DriverSpec("virtserialport", {"name": "own"}, bus="virtio-serial"),
}


@pytest.fixture
def vm_spec():
    return {"template": "bare"}


def look(vm):
    """Return what QEMU has, device by device with where it is, and block nodes with their files."""
    say = vm.qmp.execute
    entries = say("qom-list", {"path": "/machine/peripheral"})
    devices = {entry["name"] for entry in entries if entry["type"].startswith("child<")}
    places = {}
    for device in devices:
        path = f"/machine/peripheral/{device}"
        known = {entry["name"] for entry in say("qom-list", {"path": path})}
        keys = known & {"addr", "nr", "scsi-id", "lun", "parent_bus", "serial", "mac"}
        places[device] = {key: say("qom-get", {"path": path, "property": key}) for key in keys}
    nodes = {
        node["node-name"]: node["file"]
        for node in say("query-named-block-nodes", {"flat": True})
        if not node["node-name"].startswith(("#", "snapshots"))
    }
    backends = {entry["label"] for entry in say("query-chardev")}
    return places, nodes, backends


@pytest.mark.parametrize("machine", ["q35", "pc"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_plugged_since_goes_and_what_was_unplugged_since_comes_back(
    vm_factory, coherence, kind, machine
):
    vm = vm_factory(machine=machine)
    pid = vm.pid
    vm.snapshot("empty")
    nothing = look(vm)
    device = vm.hotplug(KINDS[kind])
    vm.snapshot("full")
    full = look(vm)

    device.unplug()
    vm.restore("full")
    assert vm.devices == (device,)
    assert device.present
    assert look(vm) == full
    assert coherence.check() == []

    vm.restore("empty")
    assert vm.devices == ()
    assert not device.present
    assert look(vm) == nothing
    assert coherence.check() == []

    vm.restore("full")
    assert vm.devices == (device,)
    assert look(vm) == full
    device.unplug()
    assert look(vm) == nothing
    assert (vm.pid, vm.state, vm.record.state) == (pid, "running", "running")


def test_slots_are_those_of_the_snapshot(vm_factory):
    vm = vm_factory(hotplug_slots=2)
    first = vm.hotplug(RngSpec())
    vm.snapshot("one")
    first.unplug()
    second, third = vm.hotplug(RngSpec()), vm.hotplug(RngSpec())
    vm.restore("one")
    assert vm.devices == (first,)
    assert not second.present
    assert not third.present
    fourth = vm.hotplug(RngSpec())
    assert fourth.id not in {first.id, second.id, third.id}
    assert first.supplies.place.bus != fourth.supplies.place.bus


def test_several_of_all_kinds_come_and_go_at_once(vm_factory, coherence):
    vm = vm_factory(hotplug_slots=12, disks=[DiskSpec("1M"), DiskSpec("1M", bus="scsi")], nics=[NicSpec()])
    devices = [*vm.devices, *(vm.hotplug(spec) for spec in KINDS.values())]
    vm.snapshot("all")
    everything = look(vm)
    for device in (*devices[::2], *reversed(devices[1::2])):
        device.unplug()
    vm.snapshot("none")
    nothing = look(vm)
    for spec in KINDS.values():
        vm.hotplug(spec)
    for _ in range(2):
        vm.restore("all")
        assert set(vm.devices) == set(devices)
        assert look(vm) == everything
        assert coherence.check() == []
        vm.restore("none")
        assert vm.devices == ()
        assert look(vm) == nothing
        assert coherence.check() == []


def test_a_medium_is_the_one_of_the_snapshot(vm_factory, tmp_path):
    media = [tmp_path / "one.iso", tmp_path / "two.iso"]
    for medium in media:
        medium.write_bytes(bytes(4096))
    vm = vm_factory()
    drive = vm.hotplug(CdromSpec(media[0]))

    def inserted():
        (found,) = (entry for entry in vm.qmp.execute("query-block") if entry["qdev"] == drive.id)
        return found["inserted"]["file"] if "inserted" in found else None

    vm.snapshot("one")
    drive.eject()
    vm.snapshot("empty")
    drive.change_medium(media[1])
    vm.restore("one")
    assert inserted() == str(media[0])
    vm.restore("empty")
    assert inserted() is None
    vm.restore("one")
    drive.unplug()
    media[0].unlink()
    with pytest.raises(DiskStateError):
        vm.restore("one")
    assert vm.state == "running"
    assert not drive.present


def test_names_are_checked_and_unknown_ones_come_with_the_nearest(vm_factory):
    vm = vm_factory()
    with pytest.raises(SnapshotNotFound):
        vm.restore("clean")
    vm.snapshot("clean")
    with pytest.raises(SnapshotExists):
        vm.snapshot("clean")
    with pytest.raises(SnapshotNotFound) as caught:
        vm.restore("claen")
    assert "clean" in caught.value.hint
    for name in ("", "1st", "a/b", None, "a" * 64):
        with pytest.raises(ValueError, match="snapshot"):
            vm.snapshot(name)
    assert vm.snapshots == ("clean",)
    vm.delete_snapshot("clean")
    with pytest.raises(SnapshotNotFound):
        vm.delete_snapshot("clean")
    vm.snapshot("clean")
    vm.restore("clean")


def test_snapshots_end_with_the_run(vm_factory, coherence):
    vm = vm_factory()
    vm.snapshot("clean")
    vm.stop()
    assert vm.snapshots == ()
    for call in (vm.snapshot, vm.restore, vm.delete_snapshot):
        with pytest.raises(NotRunning):
            call("clean")
    vm.start()
    with pytest.raises(SnapshotNotFound):
        vm.restore("clean")
    assert [path.name for path in vm.run_dir.iterdir() if "snapshots" in path.name] == []
    vm.snapshot("clean")
    assert coherence.check() == []


def test_a_paused_machine_is_paused_again(vm_factory):
    vm = vm_factory()
    vm.pause()
    vm.snapshot("paused")
    assert vm.state == "paused"
    vm.resume()
    vm.snapshot("running")
    vm.restore("paused")
    assert (vm.state, vm.record.state) == ("paused", "paused")
    vm.restore("running")
    assert (vm.state, vm.record.state) == ("running", "running")
    vm.restore("paused")
    vm.resume()
    assert vm.state == "running"


def test_what_qemu_cannot_save_is_told_with_its_reason_and_the_machine_runs_on(vm_factory, coherence):
    vm = vm_factory()
    with vm.hotplug(DiskSpec("1M", bus="nvme")):
        with pytest.raises(CannotSave) as caught:
            vm.snapshot("clean")
        assert "migrat" in caught.value.details
        assert vm.state == "running"
        assert vm.snapshots == ()
    raw = vm.hotplug(DiskSpec("1M", format="raw"))
    with pytest.raises(CannotSave) as caught:
        vm.snapshot("clean")
    assert raw.id in caught.value.brief
    raw.unplug()
    vm.snapshot("clean")
    assert coherence.check() == []


def test_disks_of_disk_factory_are_attached_again_and_have_their_size(vm_factory, disk_factory, coherence):
    disk, since = disk_factory("8M"), disk_factory("8M")
    vm, other = vm_factory(), vm_factory()
    device = vm.attach(disk)
    vm.snapshot("attached")
    disk.resize("16M")
    vm.detach(disk)
    vm.attach(since)
    other.attach(disk)
    with pytest.raises(AlreadyAttached) as caught:
        vm.restore("attached")
    assert caught.value.holder == other.name
    assert [device.path for device in vm.devices] == [since.path]
    other.detach(disk)
    vm.restore("attached")
    assert vm.devices == (device,)
    assert (disk.state, disk.holder, disk.size) == ("attached", vm.name, 8 << 20)
    assert since.state == "available"
    (node,) = (
        node for node in vm.qmp.execute("query-named-block-nodes") if node["node-name"] == f"{device.id}-fmt"
    )
    assert node["image"]["virtual-size"] == 8 << 20
    assert coherence.check() == []
    vm.detach(disk)
    again = vm.attach(disk)
    vm.restore("attached")
    assert vm.devices == (device,)
    assert not again.present
    vm.detach(disk)
    disk.delete()
    with pytest.raises(DiskStateError):
        vm.restore("attached")
    assert vm.state == "running"


def test_memory_that_no_guest_gives_back_is_told_before_anything_is_touched(vm_factory):
    vm = vm_factory()
    vm.snapshot("clean")
    kept = vm.hotplug(MemorySpec("128M"))
    with pytest.raises(UnplugTimeout):
        vm.restore("clean", timeout=0.5)
    assert vm.state == "running"
    assert vm.devices == (kept,)


def test_processors_and_memory_are_in_a_snapshot(vm_factory):
    vm = vm_factory()
    devices = (vm.hotplug(CpuSpec()), vm.hotplug(MemorySpec("128M")))
    vm.snapshot("more")
    vm.restore("more")
    assert vm.devices == devices
    assert len(vm.qmp.execute("query-cpus-fast")) == 2


def test_a_port_from_the_start_cannot_come_back(vm_factory):
    vm = vm_factory(serials=[SerialSpec("early")])
    vm.snapshot("clean")
    vm.restore("clean")
    (port,) = vm.devices
    port.unplug()
    with pytest.raises(VMStateError):
        vm.restore("clean")
    assert vm.state == "running"
