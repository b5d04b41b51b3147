import pytest

from pytest_qemuvm import DiskSpec, NicSpec


@pytest.mark.parametrize("start", ["cold", "clone"])
def test_memory_and_disks_go_back_together(vm_factory, start):
    vm = vm_factory(start=start, disks=[DiskSpec("64M", serial="data")])
    pid = vm.pid
    vm.run(
        "echo old >/tmp/file; mke2fs -q /dev/disk/by-id/*data 2>/dev/null; mkdir /mnt; mount /dev/disk/by-id/*data /mnt && echo old >/mnt/file; sync"
    )
    vm.snapshot("clean")
    vm.run("echo new >/tmp/file; echo new >/mnt/file; sync")
    vm.restore("clean")
    assert vm.pid == pid
    assert vm.run("cat /tmp/file /mnt/file").stdout == "old\nold\n"


def test_bare(vm_factory):
    vm = vm_factory(template="bare")
    vm.snapshot("a")
    vm.restore("a")
    assert vm.state == "running"
