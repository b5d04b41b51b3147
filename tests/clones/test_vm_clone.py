"""A second machine from the present state of one that runs: both run on, and neither sees the other."""

import socket
import time

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
from pytest_qemuvm.errors import CannotSave, NotRunning, VMStateError

KINDS = {
    "virtio-blk": DiskSpec("16M", serial="data"),
    "scsi": DiskSpec("16M", bus="scsi"),
    "usb-storage": DiskSpec("16M", bus="usb"),
    "raw": DiskSpec("16M", format="raw"),
    "virtio-net": NicSpec(forward=22),
    "e1000e": NicSpec(model="e1000e"),
    "usb-kbd": UsbSpec(),
    "serial": SerialSpec("metrics"),
    "rng": RngSpec(),
    "empty-cdrom": CdromSpec(),
    "cdrom": CdromSpec(__file__),
    "driver-pci": DriverSpec("pci-testdev"),
    "driver-usb": DriverSpec("usb-tablet", bus="usb"),
    "driver-scsi": DriverSpec("scsi-cd", bus="scsi"),
    "driver-serial": DriverSpec("virtserialport", {"name": "own"}, bus="virtio-serial"),
    "cpu": CpuSpec(),
    "memory": MemorySpec("128M"),
}


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_without_a_guest_all_kinds_of_devices_are_in_their_places(vm_factory, coherence, qemuvm, machine):
    vm = vm_factory(
        template="bare",
        machine=machine,
        hotplug_slots=8,
        disks=[DiskSpec("1M"), DiskSpec("1M", bus="scsi")],
        nics=[NicSpec()],
        serials=[SerialSpec("early")],
    )
    devices = [vm.hotplug(spec) for spec in KINDS.values()]
    for device in (vm.devices[0], devices[1]):
        device.unplug()
    pid = vm.pid
    twin = vm.clone("twin")
    assert qemuvm.vm("twin") is twin
    assert (vm.pid, vm.state, twin.state) == (pid, "running", "running")
    assert twin.pid != pid
    assert [device.id for device in twin.devices] == [device.id for device in vm.devices]
    assert [device.spec for device in twin.devices][3:] == [device.spec for device in vm.devices][3:]
    assert places(twin) == places(vm)
    assert coherence.check() == []
    # Both are machines like any other.
    for each in (vm, twin):
        fresh = each.hotplug(RngSpec())
        assert fresh.id not in {device.id for device in devices}
        fresh.unplug()
        for device in each.devices:
            if device.kind.name not in ("cpu", "memory"):
                device.unplug()
        each.snapshot("end")
        each.restore("end")
    assert coherence.check() == []


def places(vm):
    say = vm.qmp.execute
    entries = say("qom-list", {"path": "/machine/peripheral"})
    found = {}
    for device in (entry["name"] for entry in entries if entry["type"].startswith("child<")):
        path = f"/machine/peripheral/{device}"
        known = {entry["name"] for entry in say("qom-list", {"path": path})}
        keys = known & {"addr", "nr", "scsi-id", "lun", "parent_bus", "serial"}
        found[device] = {key: say("qom-get", {"path": path, "property": key}) for key in keys}
    return found


@pytest.mark.parametrize("start", ["cold", "clone"])
def test_both_go_on_and_neither_sees_the_other(vm_factory, coherence, start):
    vm = vm_factory(
        "first", start=start, disks=[DiskSpec("64M", serial="data")], nics=[NicSpec()], hotplug_slots=4
    )
    vm.run("mke2fs -q /dev/disk/by-id/*data; mkdir /mnt; mount /dev/disk/by-id/*data /mnt")
    vm.run("echo both >/mnt/file; echo both >/tmp/file; sync; (while :; do sleep 1; done) >/dev/null 2>&1 &")
    added = vm.hotplug(NicSpec())
    vm.hotplug(DiskSpec("16M", serial="more"))
    ids = vm.run("hostname; cat /etc/machine-id /sys/class/net/e*/address").stdout.split()
    twin = vm.clone()
    assert twin.started_as == "clone"
    for each, word in ((vm, "one"), (twin, "two")):
        assert each.run("cat /mnt/file /tmp/file").stdout == "both\nboth\n"
        assert each.run("ps | grep '[s]leep 1'").ok
        each.run(
            f"echo {word} >/mnt/file; echo {word} >/tmp/file; echo {word} >/dev/disk/by-id/virtio-more; sync"
        )
    for each, word in ((vm, "one"), (twin, "two")):
        each.run("echo 3 >/proc/sys/vm/drop_caches")
        assert (
            each.run("cat /mnt/file /tmp/file; head -c 3 /dev/disk/by-id/virtio-more").stdout
            == f"{word}\n" * 2 + word
        )
    mine = twin.run("hostname; cat /etc/machine-id /sys/class/net/e*/address").stdout.split()
    assert vm.run("hostname; cat /etc/machine-id /sys/class/net/e*/address").stdout.split() == ids
    assert mine[0] == twin.name
    assert not set(mine) & set(ids)
    assert set(mine[2:]) == {nic.mac for nic in twin.nics}
    assert [nic.id for nic in twin.nics] == ["nic0", added.id]
    assert len({each.run("head -c 16 /dev/urandom | hexdump -C").stdout for each in (vm, twin)}) == 2
    assert coherence.check() == []
    third = twin.clone("third")
    twin.delete()
    assert third.run("cat /mnt/file").stdout == "two\n"
    third.restart()
    for serial in ("data", "more"):
        third.wait_for_file(f"/dev/disk/by-id/virtio-{serial}")
    assert (
        third.run(
            "mount /dev/disk/by-id/*data /mnt; cat /mnt/file; head -c 3 /dev/disk/by-id/virtio-more"
        ).stdout
        == "two\ntwo"
    )
    assert [device.id for device in third.devices] == [device.id for device in vm.devices]
    assert coherence.check() == []


def test_disks_of_disk_factory_are_copied_and_stay_the_first_ones(vm_factory, disk_factory, coherence):
    early, late, shared = disk_factory("8M"), disk_factory("8M", format="raw"), disk_factory("8M")
    vm = vm_factory(template="bare", disks=[early])
    vm.attach(late)
    vm.attach(shared, read_only=True)
    twin = vm.clone()
    for disk in (early, late, shared):
        assert (disk.state, disk.holder) == ("attached", vm.name)
    assert not {device.path for device in twin.devices} & {disk.path for disk in (early, late, shared)}
    assert all(twin.run_dir in device.path.parents for device in twin.devices)
    assert coherence.check() == []
    for disk in (late, shared):
        vm.detach(disk)
    vm.delete()
    early.delete()
    twin.restart()
    assert len(twin.devices) == 3
    assert coherence.check() == []


def test_an_image_of_the_users_is_below_both_and_never_written(vm_factory, tmp_path, coherence):
    image = tmp_path / "data.raw"
    image.write_bytes(b"data" * 1024)
    vm = vm_factory(template="bare", disks=[DiskSpec(path=image, format="raw")])
    vm.hotplug(DiskSpec(path=image, format="raw"))
    vm.hotplug(DiskSpec(path=image, format="raw", read_only=True))
    twin = vm.clone()
    assert len({device.path for each in (vm, twin) for device in each.devices}) == 5
    assert coherence.check() == []
    twin.delete()
    vm.delete()
    assert image.read_bytes() == b"data" * 1024


def test_what_cannot_be_cloned_runs_on_and_leaves_nothing(vm_factory, qemuvm, coherence):
    vm = vm_factory("first", template="bare")
    there = qemuvm.vms()
    with vm.hotplug(DiskSpec("1M", bus="nvme")):
        with pytest.raises(CannotSave) as caught:
            vm.clone("second")
        assert "migrat" in caught.value.details
        assert vm.state == "running"
    assert qemuvm.vms() == there
    assert not (vm.run_dir.parent / "second").exists()
    with pytest.raises(VMStateError):
        vm.clone("first")
    with pytest.raises(ValueError, match="VM"):
        vm.clone("no/name")
    vm.pause()
    with pytest.raises(VMStateError):
        vm.clone()
    vm.resume()
    assert vm.clone("second").state == "running"
    vm.stop()
    with pytest.raises(NotRunning):
        vm.clone()
    assert coherence.check() == []


def test_a_clone_belongs_to_whoever_asks_for_it(module_vm_factory, qemuvm, request):
    vm = module_vm_factory("lasting", template="bare")
    twin = vm.clone("passing")
    assert qemuvm.owned_by(request.node.nodeid) == [twin]


def test_the_clone_of_another_test_is_gone(qemuvm):
    names = [vm.name for vm in qemuvm.vms()]
    assert "lasting" in names
    assert "passing" not in names


def test_forwarded_ports_are_each_ones_own(vm_factory):
    vm = vm_factory(nics=[NicSpec(forward=8080)])
    vm.run("echo one >/tmp/word; (while :; do nc -l -p 8080 </tmp/word; done) >/dev/null 2>&1 &")
    vm.wait_for_port(8080)
    twin = vm.clone()
    twin.run("echo two >/tmp/word")
    assert vm.port(8080) != twin.port(8080)
    answers = {}
    for each in (vm, twin):
        with socket.create_connection(("127.0.0.1", each.port(8080)), timeout=60) as connection:
            connection.settimeout(60)
            connection.recv(100)  # nc had opened the file before the clone was made
        each.wait_for_port(8080)
        with socket.create_connection(("127.0.0.1", each.port(8080)), timeout=60) as connection:
            connection.settimeout(60)
            answers[each.name] = connection.recv(100)
    assert answers == {vm.name: b"one\n", twin.name: b"two\n"}


def test_processors_and_memory_and_processes_go_along(vm_factory):
    vm = vm_factory(memory="192M")
    vm.hotplug(CpuSpec())
    vm.hotplug(MemorySpec("128M"))
    seen = vm.run("grep -c ^processor /proc/cpuinfo; grep MemTotal /proc/meminfo").stdout
    twin = vm.clone()
    assert twin.run("grep -c ^processor /proc/cpuinfo; grep MemTotal /proc/meminfo").stdout == seen
    processor, module = twin.devices
    module.unplug()
    processor.unplug()
    assert twin.run("grep -c ^processor /proc/cpuinfo").stdout == "1\n"
    assert vm.run("grep -c ^processor /proc/cpuinfo").stdout == "2\n"


def test_the_console_and_time_go_on(vm_factory):
    vm = vm_factory()
    vm.run("echo said-before >/dev/console")
    vm.console.expect("said-before")
    twin = vm.clone()
    assert "said-before" in twin.console.text
    twin.run("echo said-after >/dev/console")
    twin.console.expect("said-after")
    assert "said-after" not in vm.console.text
    assert abs(int(twin.run("date +%s").stdout) - time.time()) < 5
