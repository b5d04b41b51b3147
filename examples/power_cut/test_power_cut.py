"""Two programs that say that data is safe, a drive with a cache, and the power cut that tells which is right.

Both keep a record in a file. One writes it past the page cache, sees that the drive has it, and says so. The
other has the drive flush it first. Both work, day after day, until the power goes.
"""

import pytest

from pytest_qemuvm import DiskSpec

DISK = "/dev/disk/by-id/virtio-store"
HASTY = "printf %4096s {} | dd of=/mnt/record bs=4096 conv=notrunc oflag=direct"
CAREFUL = "printf %4096s {} | dd of=/mnt/record bs=4096 conv=notrunc,fsync"


@pytest.fixture
def store(vm_factory):
    """Return a machine with a record in a file, on a drive with a cache."""
    vm = vm_factory(disks=[DiskSpec("16M", serial="store", volatile_cache=True)])
    vm.run(f"mke2fs -q {DISK} && mount {DISK} /mnt")
    vm.run(CAREFUL.format("old") + " && sync")
    return vm


def record_after_start(vm):
    vm.start()
    vm.run(f"mount {DISK} /mnt")
    return vm.read_text("/mnt/record").strip()


def test_what_a_careful_program_called_safe_is_there(store):
    store.run(CAREFUL.format("new"))
    store.faults.power_cut(keep="none")
    assert record_after_start(store) == "new"


def test_what_a_hasty_program_called_safe_may_be_lost(store):
    store.run(HASTY.format("new"))
    cut = store.faults.power_cut(keep="none")
    assert cut.lost
    assert record_after_start(store) == "old"


def test_and_mostly_it_is_not_which_is_why_nobody_noticed(store):
    store.run(HASTY.format("new"))
    store.faults.power_cut(keep="all")
    assert record_after_start(store) == "new"
