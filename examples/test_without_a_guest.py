"""Tests of devices and of the monitor need no guest: a bare machine is up in tens of milliseconds."""

import pytest

from pytest_qemuvm import DiskSpec, LaunchError, NicSpec

pytestmark = pytest.mark.qemuvm(template="bare")


@pytest.mark.parametrize("bus", ["virtio", "scsi", "nvme", "usb"])
def test_a_disk_on_every_bus(vm_factory, bus):
    vm = vm_factory(disks=[DiskSpec("1G", bus=bus, serial="data")])
    (disk,) = vm.qmp.execute("query-block")
    assert disk["inserted"]["image"]["virtual-size"] == 1024**3


def test_a_nic_has_the_address_it_was_given(vm_factory):
    vm = vm_factory(nics=[NicSpec(mac="52:54:00:12:34:56")])
    (nic,) = vm.qmp.execute("query-rx-filter")
    assert nic["main-mac"] == "52:54:00:12:34:56"


def test_a_command_line_that_qemu_refuses(vm_factory):
    with pytest.raises(LaunchError) as caught:
        vm_factory(args=("-device", "virtio-teapot"))
    assert caught.value.status == 1
    assert "virtio-teapot" in caught.value.log
