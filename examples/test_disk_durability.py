"""A disk, a file system on it, and what a power cut leaves of it."""

import pytest

from pytest_qemuvm import DiskSpec

DISK = "/dev/disk/by-id/virtio-data"


@pytest.mark.qemuvm(disks=[DiskSpec("64M", serial="data")])
def test_what_was_synced_survives_a_power_cut(vm):
    vm.run(f"mke2fs -q {DISK} && mount {DISK} /mnt")
    vm.run("echo synced >/mnt/safe && sync && echo in memory only >/mnt/lost")
    vm.kill()
    vm.start()
    vm.run(f"mount {DISK} /mnt")
    assert vm.read_text("/mnt/safe") == "synced\n"
    assert not vm.run("test -s /mnt/lost", check=False).ok


@pytest.mark.qemuvm(disks=[DiskSpec("16M", bus="scsi", serial="ro", read_only=True)])
def test_a_read_only_disk_refuses_writes(vm):
    result = vm.run("dd if=/dev/zero of=/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_ro count=1", check=False)
    assert not result.ok
    assert vm.run("lsblk -dno RO,SIZE /dev/sda").stdout.split() == ["1", "16M"]


def test_an_image_of_ones_own_is_never_written(vm_factory, tmp_path):
    image = tmp_path / "mine.img"
    image.write_bytes(b"precious".ljust(1024 * 1024, b"."))
    vm = vm_factory(disks=[DiskSpec(path=image, format="raw", serial="mine")])
    device = "/dev/disk/by-id/virtio-mine"
    assert vm.run(f"head -c 8 {device}").stdout == "precious"
    vm.run(f"printf scribble | dd of={device} conv=notrunc && sync")
    assert vm.run(f"head -c 8 {device}").stdout == "scribble"
    assert image.read_bytes().startswith(b"precious")
