"""Power cuts of drives with caches: what was flushed is there, and of the rest what the test wants."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from pytest_qemuvm import DiskSpec
from pytest_qemuvm.errors import CannotSave, NotRunning, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_qemuvm.machine.disks import Disk
    from pytest_qemuvm.machine.harness import Harness
    from pytest_qemuvm.machine.observer import Observer
    from pytest_qemuvm.machine.vm import VM

CACHED = DiskSpec("16M", serial="d", volatile_cache=True)
BLOCK = 4096
DEVICE = {
    "virtio": "/machine/peripheral/disk0/virtio-backend",
    "scsi": "disk0",
    "usb": "/machine/peripheral/disk0/disk0.0/legacy[0]",
    "nvme": "disk0",
}
"""By what name QEMU has a disk's drive."""


def place(vm: VM) -> str:
    """Wait for the disk, and return where the guest has it."""
    return vm.wait_until_succeeds("readlink -f /dev/disk/by-id/*[-_]d | grep -v '[*]'").stdout.strip()


def write(disk: str, block: int, text: str, *, flushed: bool) -> str:
    """Return a command that has a block reach the drive, and flushes it or not."""
    conv = "notrunc,fsync" if flushed else "notrunc"
    return f"printf %{BLOCK}s {text} | dd of={disk} bs={BLOCK} seek={block} oflag=direct conv={conv} 2>&1"


def words(vm: VM, disk: str, *blocks: int) -> list[str]:
    """Return what is in some blocks; nothing where they are zeros."""
    reading = (f"dd if={disk} bs={BLOCK} skip={block} count=1 2>/dev/null | tr -d ' \\0'" for block in blocks)
    return vm.run("; echo; ".join(reading)).stdout.split("\n")[: len(blocks)]


def drive(vm: VM, *commands: str) -> None:
    """Ask a disk for something as its guest would, where there is none."""
    for command in commands:
        arguments = {"command-line": f'qemu-io -d {DEVICE[vm.spec.disks[0].bus]} "{command}"'}
        vm.monitor.execute("human-monitor-command", arguments, allow_dangerous=True)


def content(vm: VM, path: Path, *, newest: bool = False) -> bytes:
    """Return what a stopped VM's disk keeps; it is one image, or the ``newest`` of several."""
    found = sorted(vm.run_dir.glob("disk0.kept*.qcow2"))
    assert newest or len(found) == 1
    kept = found[-1]
    subprocess.run(["qemu-img", "check", kept], check=True, capture_output=True)
    subprocess.run(["qemu-img", "convert", "-O", "raw", kept, path], check=True, capture_output=True)
    return path.read_bytes()


def blocks(found: bytes, *numbers: int) -> list[int]:
    """Return what is in some blocks, each of which is of one byte."""
    assert all(len(set(found[number * BLOCK : (number + 1) * BLOCK])) == 1 for number in numbers)
    return [found[number * BLOCK] for number in numbers]


class TestWhatIsLeft:
    @pytest.mark.qemuvm(disks=[CACHED])
    def test_what_was_flushed_is_there_and_the_rest_as_asked_for(self, vm: VM, coherence: Observer) -> None:
        disk = place(vm)
        assert vm.started_as == "cold"
        vm.run(write(disk, 1, "flushed", flushed=True))
        vm.run(write(disk, 2, "written", flushed=False))
        assert coherence.check() == []
        cut = vm.faults.power_cut()
        assert (cut.keep, cut.seed, cut.kept, cut.lost) == ("none", None, 0, 1)
        assert cut.flushed >= 1
        assert (vm.state, vm.stopped_by, vm.record.state) == ("stopped", "kill", "stopped")
        assert coherence.check() == []
        vm.start()
        assert words(vm, place(vm), 1, 2) == ["flushed", ""]
        vm.run(write(disk, 1, "again", flushed=False))
        vm.run(write(disk, 2, "again", flushed=False))
        cut = vm.faults.power_cut(keep="all")
        assert (cut.kept, cut.lost) == (2, 0)
        vm.start()
        assert words(vm, place(vm), 1, 2) == ["again", "again"]
        assert coherence.check() == []

    @pytest.mark.qemuvm(disks=[CACHED])
    def test_a_drive_that_writes_through_keeps_all(self, vm: VM, tmp_path: Path) -> None:
        disk = place(vm)
        vm.run(write(disk, 1, "one", flushed=True))
        cache = f"/sys/block/{disk.rpartition('/')[2]}/cache_type"
        # QEMU makes a flush of each such write, also of one right after a flush.
        vm.run(f"echo write through >{cache}; {write(disk, 3, 'through', flushed=False)}")
        assert vm.faults.power_cut().lost == 0
        assert b"through" in content(vm, tmp_path / "flat")

    @pytest.mark.qemuvm(disks=[CACHED])
    def test_what_was_called_safe_while_much_is_written_is_there(self, vm: VM, tmp_path: Path) -> None:
        disk = place(vm)
        saying = write(disk, 0, "$n", flushed=True) + " >/dev/null && echo acked $n >/dev/console"
        noise = f"dd if=/tmp/busy of={disk} bs=64k seek=16 count=99 oflag=direct conv=notrunc 2>/dev/null"
        vm.write_text("/tmp/busy", "busy " * 200_000)
        vm.write_text("/tmp/say", f"n=0; while :; do n=$((n+1)); {saying}; done")
        vm.write_text("/tmp/noise", f"while :; do {noise}; done")
        vm.run("for each in say noise; do sh /tmp/$each </dev/null >/dev/null 2>&1 & done")
        vm.console.expect("acked 5")
        console = vm.console
        cut = vm.faults.power_cut()
        assert cut.flushed >= 5
        said = max(int(number) for number in re.findall(r"acked (\d+)\s", console.text))
        assert int(content(vm, tmp_path / "flat")[:BLOCK]) >= said

    @pytest.mark.parametrize("bus", ["virtio", "scsi", "usb", "nvme"])
    @pytest.mark.parametrize("form", ["raw", "qcow2"])
    def test_drives_of_every_bus_have_caches(
        self, vm_factory: Callable[..., VM], bus: str, form: str, tmp_path: Path
    ) -> None:
        spec = DiskSpec("16M", bus=bus, format=form, volatile_cache=True)  # type: ignore[arg-type]
        vm = vm_factory(template="bare", disks=[spec])
        drive(vm, "write -P 1 0 12k", "write -P 2 1M 64k", "flush", "write -P 3 4k 4k", "discard 1M 64k")
        cut = vm.faults.power_cut()
        assert (cut.flushed, cut.lost) == (2, 2)
        assert blocks(content(vm, tmp_path / "flat"), 0, 1, 2, 256) == [1, 1, 1, 2]
        vm.start()
        drive(vm, "write -P 4 8k 4k", "discard 1M 64k", "write -z 0 4k")
        assert vm.faults.power_cut(keep="all").kept == 3
        assert blocks(content(vm, tmp_path / "flat"), 0, 1, 2, 256) == [0, 1, 4, 0]

    @pytest.mark.qemuvm(template="bare", disks=[CACHED])
    def test_a_write_that_is_to_be_durable_by_itself_is(self, vm: VM, tmp_path: Path) -> None:
        drive(vm, "write -P 1 0 4k", "flush", "write -f -P 2 4k 4k", "write -P 3 8k 4k")
        vm.faults.power_cut()
        assert blocks(content(vm, tmp_path / "flat"), 0, 1, 2) == [1, 2, 0]

    @pytest.mark.qemuvm(template="bare", disks=[CACHED])
    def test_every_other_end_of_a_run_keeps_everything(self, vm: VM, tmp_path: Path) -> None:
        ends = (vm.kill, vm.stop, lambda: os.kill(vm.pid or 0, signal.SIGKILL), vm.restart)
        for number, end in enumerate(ends):
            drive(vm, f"write -P {number + 1} {number * BLOCK} {BLOCK}")
            end()
            vm.restart()
        vm.faults.power_cut()
        assert blocks(content(vm, tmp_path / "flat"), *range(4)) == [1, 2, 3, 4]
        assert len(list(vm.run_dir.glob("disk0*"))) == 2

    @pytest.mark.qemuvm(template="bare", disks=[CACHED])
    def test_where_the_log_has_a_hole_what_qemu_wrote_is_kept(self, vm: VM, tmp_path: Path) -> None:
        drive(vm, "write -P 1 0 4k", "write -P 2 4k 4k", "flush")
        vm.kill()
        with (vm.run_dir / "disk0.writes").open("r+b") as log:
            log.seek(512)  # the first request did not get there, and the second did
            log.write(b"\0" * 512)
        vm.start()
        drive(vm, "write -P 3 8k 4k", "flush")
        vm.kill()
        vm.start()
        vm.faults.power_cut()
        assert blocks(content(vm, tmp_path / "flat", newest=True), 0, 1, 2) == [1, 2, 3]

    @pytest.mark.qemuvm(template="bare", disks=[CACHED])
    def test_the_same_seed_leaves_the_same(self, vm_factory: Callable[..., VM], tmp_path: Path) -> None:
        outcomes = []
        for seed in (1, 1, 2):
            vm = vm_factory()
            drive(vm, "write -P 9 1M 4k", "flush")
            drive(vm, *(f"write -P 1 {number * BLOCK} {BLOCK}" for number in range(16)))
            cut = vm.faults.power_cut(keep="random", seed=seed)
            assert (cut.seed, cut.kept + cut.lost) == (seed, 16)
            found = blocks(content(vm, tmp_path / "flat"), 256, *range(16))
            assert found[0] == 9
            assert sum(found[1:]) == cut.kept
            outcomes.append((cut, found))
        assert outcomes[0] == outcomes[1]
        assert outcomes[0] != outcomes[2]

    @pytest.mark.qemuvm(template="bare", disks=[CACHED])
    def test_a_seed_that_was_not_given_is_told(
        self, vm: VM, qemuvm: Harness, request: pytest.FixtureRequest
    ) -> None:
        cut = vm.faults.power_cut(keep="random")
        assert isinstance(cut.seed, int)
        assert f"seed={cut.seed}" in str(cut)
        assert any(str(cut) in moment.text for moment in qemuvm.faults.timeline.of(request.node.nodeid))

    @pytest.mark.qemuvm(template="bare")
    def test_an_image_of_the_users_is_only_read(self, vm_factory: Callable[..., VM], tmp_path: Path) -> None:
        image = tmp_path / "mine.img"
        image.write_bytes(b"\7" * (1 << 20))
        vm = vm_factory(disks=[DiskSpec(path=image, format="raw", serial="d", volatile_cache=True)])
        drive(vm, "write -P 1 4k 4k", "flush", "write -P 2 8k 4k")
        vm.faults.power_cut()
        assert blocks(content(vm, tmp_path / "flat"), 0, 1, 2) == [7, 1, 7]
        vm.delete()
        assert image.read_bytes() == b"\7" * (1 << 20)


class TestFileSystems:
    def test_a_journal_brings_ext4_to_order_after_any_cut(
        self, vm_factory: Callable[..., VM], ext4_image: Path, tmp_path: Path
    ) -> None:
        if shutil.which("e2fsck") is None:
            pytest.skip("e2fsck is not installed here")
        vm = vm_factory(
            disks=[DiskSpec(path=ext4_image, format="raw", serial="d", volatile_cache=True)], start=False
        )
        for seed in range(2):
            vm.start()
            vm.run(f"mount -t ext4 {place(vm)} /mnt && mkdir /mnt/{seed}")
            assert vm.run("cat /mnt/safe* 2>/dev/null", check=False).stdout == "safe\n" * seed
            vm.run(f"cd /mnt/{seed}; for n in $(seq 30); do mkdir d$n; echo $n >d$n/f; done")
            vm.run(f"echo safe >/mnt/safe{seed}; echo big >/mnt/{seed}/big; sync; rm -r /mnt/{seed}/d1*")
            vm.run(f"dd if=/dev/zero of=/mnt/{seed}/big bs=4096 count=99 oflag=direct 2>&1")
            cut = vm.faults.power_cut(keep="random", seed=seed)
            assert cut.kept
            assert cut.lost
            flat = tmp_path / f"after{seed}"
            content(vm, flat)
            # What a mount does first; then nothing may be out of order.
            subprocess.run(["e2fsck", "-E", "journal_only", "-y", flat], check=True, capture_output=True)
            done = subprocess.run(["e2fsck", "-f", "-n", flat], check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout


class TestBounds:
    @pytest.mark.qemuvm(template="bare", disks=[CACHED])
    def test_it_cuts_whatever_state_the_machine_and_its_disks_are_in(self, vm: VM, tmp_path: Path) -> None:
        drive(vm, "write -P 1 0 4k", "flush")
        fault = vm.faults.slow_disk("d", iops=500)
        vm.pause()
        vm.faults.power_cut()
        assert not fault.active
        vm.start()
        vm.faults.hung_disk("d")
        vm.faults.power_cut()
        assert blocks(content(vm, tmp_path / "flat"), 0) == [1]

    @pytest.mark.qemuvm(template="bare", disks=[CACHED])
    def test_it_leaves_no_more_files_the_more_often_it_is_done(self, vm: VM, coherence: Observer) -> None:
        counts = []
        for _ in range(3):
            vm.faults.power_cut()
            counts.append(len(list(vm.run_dir.glob("disk0*"))))
            vm.start()
        assert counts == [2, 2, 2]
        assert coherence.check() == []

    @pytest.mark.qemuvm(template="bare", disks=[CACHED])
    def test_bad_input_is_refused_and_nothing_is_cut(self, vm: VM) -> None:
        for given in ({"keep": "most"}, {"keep": None}, {"seed": 1}, {"keep": "random", "seed": "x"}):
            with pytest.raises(SpecError):
                vm.faults.power_cut(**given)  # type: ignore[arg-type]
        assert vm.state == "running"
        vm.stop()
        with pytest.raises(NotRunning):
            vm.faults.power_cut()

    @pytest.mark.qemuvm(template="bare", disks=[DiskSpec("16M")])
    def test_without_a_cache_there_is_nothing_to_cut(self, vm: VM) -> None:
        with pytest.raises(SpecError):
            vm.faults.power_cut()
        assert vm.state == "running"

    @pytest.mark.qemuvm(template="bare", disks=[CACHED])
    def test_what_its_log_cannot_tell_of_is_refused(self, vm: VM) -> None:
        with pytest.raises(CannotSave):
            vm.snapshot("s")
        with pytest.raises(CannotSave):
            vm.clone()
        assert vm.state == "running"

    @pytest.mark.qemuvm(template="bare")
    def test_only_disks_from_the_start_that_are_the_vms_own_have_one(
        self, vm: VM, disk_factory: Callable[..., Disk]
    ) -> None:
        with pytest.raises(SpecError):
            vm.hotplug(CACHED)
        assert vm.devices == ()
        with pytest.raises(SpecError):
            DiskSpec("16M", read_only=True, volatile_cache=True)
        disk = disk_factory("16M")
        with pytest.raises(SpecError):
            DiskSpec(path=disk.path, handle=disk, volatile_cache=True)
        with pytest.raises(SpecError):
            DiskSpec("16M", volatile_cache="yes")  # type: ignore[arg-type]
