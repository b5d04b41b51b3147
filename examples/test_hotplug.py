"""Hardware that comes and goes while the machine runs, and what the guest makes of it."""

import socket

import pytest

from pytest_qemuvm import CpuSpec, DiskSpec, MemorySpec, NicSpec, RngSpec, SerialSpec
from pytest_qemuvm.errors import UnplugTimeout


@pytest.mark.parametrize("bus", ["virtio", "scsi", "nvme", "usb"])
def test_a_disk_is_there_at_once_and_gone_without_a_trace(vm, bus):
    before = vm.run("lsblk -dno NAME").stdout
    with vm.hotplug(DiskSpec("64M", bus=bus, serial="data")):
        assert vm.run("lsblk -dno SIZE /dev/disk/by-id/*data").stdout.strip() == "64M"
    assert vm.run("lsblk -dno NAME").stdout == before


def test_several_leave_in_another_order_than_they_came(vm):
    disk, nic, memory = (vm.hotplug(spec) for spec in (DiskSpec("16M"), NicSpec(), MemorySpec("128M")))
    nic.unplug()
    assert vm.devices == (disk, memory)
    assert nic.mac not in vm.run("cat /sys/class/net/*/address").stdout


def test_work_moves_to_a_processor_that_was_not_there_at_boot(vm):
    with vm.hotplug(CpuSpec()):
        assert vm.run("taskset 2 echo on the second").stdout == "on the second\n"


def test_a_guest_talks_to_the_host_over_a_port_of_its_own(vm):
    with vm.hotplug(SerialSpec("metrics")) as port, socket.socket(socket.AF_UNIX) as host:
        host.settimeout(30)
        host.connect(str(port.path))
        vm.run("cut -d' ' -f1 /proc/uptime >/dev/virtio-ports/metrics")
        assert float(host.makefile().readline()) > 0


def test_a_disk_carries_data_from_one_machine_to_the_next(vm_factory, disk_factory):
    disk = disk_factory("64M", serial="cargo")
    link = "/dev/disk/by-id/*cargo"
    sender, receiver = vm_factory("sender"), vm_factory("receiver")
    sender.attach(disk)
    sender.run(f"echo hello | dd of=$(ls {link}) conv=notrunc")
    sender.detach(disk)
    receiver.attach(disk, bus="nvme")
    assert receiver.run(f"head -n 1 $(ls {link})").stdout == "hello\n"


def test_a_guest_that_does_not_let_go_keeps_its_device(vm):
    device = vm.hotplug(RngSpec())
    vm.pause()
    with pytest.raises(UnplugTimeout):
        device.unplug(timeout=0.5)
    assert vm.devices == (device,)
    vm.resume()
    device.unplug()
    assert vm.devices == ()
