"""Faults of disks: each is felt by the guest, seen in QEMU, and gone without a trace when it has healed."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

import pytest

from pytest_qemuvm import DiskSpec
from pytest_qemuvm.devices.disk import format_node
from pytest_qemuvm.errors import (
    DiskHasFault,
    NotAttached,
    NotRunning,
    QemuVMError,
    SpecError,
    WaitTimeout,
)
from pytest_qemuvm.machine.faults.layers import find_drive

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_qemuvm.machine.disks import Disk
    from pytest_qemuvm.machine.observer import Observer
    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.spec.devices import DiskBus

BUSES = [DiskSpec("16M", bus=bus, serial=f"on-{bus}") for bus in ("virtio", "scsi", "usb", "nvme")]
LINK = "$(readlink -f /dev/disk/by-id/*[-_]{})"
SECONDS = 60.0


def device(serial: str) -> str:
    return LINK.format(serial)


def write(serial: str, block: int = 0, text: str = "x", conv: str = "notrunc") -> str:
    """Return a command that writes a block of 4096 bytes past the guest's page cache."""
    return f"printf %4096s {text} | dd of={device(serial)} bs=4096 seek={block} oflag=direct conv={conv}"


def read(serial: str, block: int = 0) -> str:
    return f"dd if={device(serial)} bs=4096 count=1 skip={block} iflag=direct"


def graph(vm: VM) -> object:
    """Return what of QEMU a fault could leave changed."""
    nodes = vm.monitor.execute("query-named-block-nodes", {"flat": True})
    drives = vm.monitor.execute("query-block")
    objects = vm.monitor.execute("qom-list", {"path": "/objects"})
    return (
        sorted(node["node-name"] for node in nodes if not node["node-name"].startswith("#")),
        [(drive["qdev"], drive["inserted"]["node-name"]) for drive in drives],
        sorted(each["name"] for each in objects),
    )


def root(vm: VM, name: str) -> str:
    assert vm.live is not None
    (found,) = (each for each in vm.devices if each.id == name)
    drive = find_drive(vm.live, found)
    assert drive is not None
    return str(drive["inserted"]["node-name"])


class Background:
    """A command in the guest that another thread waits for."""

    def __init__(self, vm: VM, command: str) -> None:
        self.ok: bool | None = None
        self._vm, self._command = vm, command
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.ok = self._vm.run(self._command, check=False, timeout=SECONDS).ok

    def ended(self, timeout: float = SECONDS) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()


class TestErrors:
    @pytest.mark.qemuvm(disks=BUSES)
    def test_a_disk_of_every_bus_fails_and_heals(self, vm: VM, coherence: Observer) -> None:
        for spec in BUSES:
            vm.wait_until_succeeds(f"ls {device(str(spec.serial))}")
        before = graph(vm)
        for spec in BUSES:
            serial = str(spec.serial)
            with vm.faults.disk_error(serial, on=("write", "flush"), errno="EIO") as fault:
                assert fault.hits == 0
                assert not vm.run(write(serial, conv="notrunc,fsync"), check=False).ok, serial
                fault.wait_hit()
                assert fault.hits >= 1
                assert vm.run(read(serial)).ok
                assert coherence.check() == []
                assert vm.faults.active == (fault,)
            assert vm.run(write(serial)).ok, serial
            with vm.faults.disk_error(serial, on="read"):
                assert not vm.run(read(serial), check=False).ok, serial
            assert vm.run(read(serial)).ok
        assert graph(vm) == before
        assert coherence.check() == []

    @pytest.mark.qemuvm(disks=[DiskSpec("16M", serial="d")])
    def test_one_sector_as_the_guest_counts_them(self, vm: VM) -> None:
        with vm.faults.disk_error(0, on=("read", "write"), sector=100):
            assert vm.run(write("d", 11)).ok
            assert vm.run(write("d", 13)).ok
            assert not vm.run(write("d", 12), check=False).ok
            assert not vm.run(read("d", 12), check=False).ok
        assert vm.run(write("d", 12)).ok

    @pytest.mark.qemuvm(disks=[DiskSpec("16M", serial="d")])
    def test_once_is_once_also_when_another_fault_comes_and_goes(self, vm: VM) -> None:
        fault = vm.faults.disk_error("disk0", on="read", once=True)
        assert not vm.run(read("d"), check=False).ok
        with vm.faults.disk_error("disk0", on="write"):
            assert vm.run(read("d")).ok
            assert not vm.run(write("d"), check=False).ok
        assert vm.run(read("d")).ok
        fault.heal()
        assert fault.hits == 1

    @pytest.mark.qemuvm(disks=[DiskSpec("16M", serial="d")])
    def test_nothing_that_fails_is_not_waited_for_for_ever(self, vm: VM) -> None:
        with vm.faults.disk_error("d") as fault, pytest.raises(WaitTimeout):
            fault.wait_hit(0.05)
        with vm.faults.slow_disk("d", iops=9) as slow, pytest.raises(SpecError):
            slow.wait_hit()

    def test_a_read_only_medium_has_the_file_system_remounted(self, vm: VM, ext4_image: Path) -> None:
        with vm.hotplug(DiskSpec(path=ext4_image, format="raw", serial="d")):
            vm.run(f"mount -t ext4 -o errors=remount-ro {device('d')} /mnt")
            vm.run("echo kept >/mnt/file && sync && echo 3 >/proc/sys/vm/drop_caches")
            with vm.faults.read_only_disk("d") as fault:
                assert vm.read_text("/mnt/file") == "kept\n"
                vm.run("mkdir /mnt/lost && sync", check=False)
                fault.wait_hit()
                vm.wait_until_succeeds("touch /mnt/x 2>&1 | grep 'Read-only file system'")
                assert vm.read_text("/mnt/file") == "kept\n"
            vm.run("umount /mnt")

    @pytest.mark.qemuvm(disks=[DiskSpec("16M", bus="scsi", serial="d")])
    def test_discards_fail_on_demand_and_pass_else(self, vm: VM) -> None:
        with vm.faults.slow_disk("d", iops=10_000):
            assert vm.run(f"blkdiscard {device('d')}").ok
        with vm.faults.disk_error("d", on="discard") as fault:
            assert not vm.run(f"blkdiscard {device('d')}", check=False).ok
            assert fault.hits


class TestPolicies:
    @pytest.mark.parametrize("bus", ["virtio", "usb"])
    def test_a_machine_that_stops_goes_on_and_has_lost_nothing(
        self, vm_factory: Callable[..., VM], bus: DiskBus, coherence: Observer
    ) -> None:
        vm = vm_factory(disks=[DiskSpec("16M", bus=bus, serial="d", on_error="stop")])
        vm.wait_until_succeeds(f"ls {device('d')}")
        fault = vm.faults.disk_error("d", errno="ENOSPC", on="write")
        writing = Background(vm, write("d", 7, "data"))
        fault.wait_hit()
        assert fault.hits == 1
        vm.qmp.wait_event("STOP", since=0)
        assert vm.state == "io-error"
        assert coherence.check() == []
        fault.heal()
        assert vm.state == "running"
        assert writing.ended()
        assert writing.ok
        assert "data" in vm.run(read("d", 7)).stdout
        assert vm.record.state == "running"
        assert coherence.check() == []

    @pytest.mark.qemuvm(disks=[DiskSpec("16M", serial="d", on_error="stop")])
    def test_it_goes_on_when_the_last_fault_that_stops_it_has_healed(self, vm: VM) -> None:
        first = vm.faults.disk_error("d", on="write")
        second = vm.faults.disk_error("d", on=("write", "read"), errno="ENOSPC")
        writing = Background(vm, write("d"))
        vm.qmp.wait_event("STOP", since=0)
        first.heal()
        assert vm.state == "io-error"
        second.heal()
        assert vm.state == "running"
        assert writing.ended()
        assert writing.ok

    @pytest.mark.qemuvm(disks=[DiskSpec("16M", serial="d", bus="scsi", on_error="report")])
    def test_a_machine_that_reports_goes_on_without_space(self, vm: VM) -> None:
        with vm.faults.disk_error("d", errno="ENOSPC"):
            assert not vm.run(write("d"), check=False).ok
            assert vm.state == "running"

    @pytest.mark.parametrize("given", [{"on_error": "ignore"}, {"on_error": "stop", "bus": "nvme"}])
    def test_what_cannot_be_is_refused(self, given: dict[str, str]) -> None:
        with pytest.raises(SpecError):
            DiskSpec("16M", **given)  # type: ignore[arg-type]


class TestTime:
    @pytest.mark.qemuvm(disks=[DiskSpec("16M", serial="d")])
    def test_a_hung_disk_holds_what_it_is_asked_until_it_heals(self, vm: VM, coherence: Observer) -> None:
        before = graph(vm)
        fault = vm.faults.hung_disk("d")
        writing, reading = Background(vm, write("d", 9, "data")), Background(vm, read("d"))
        # The requests are on their way: the guest shows them as such, and they stay so.
        vm.wait_until_succeeds("awk '$1 == 1 && $2 == 1 {n=1} END {exit !n}' /sys/block/vda/inflight")
        assert not writing.ended(0.1)
        assert coherence.check() == []
        fault.heal()
        assert writing.ended()
        assert reading.ended()
        assert (writing.ok, reading.ok) == (True, True)
        assert "data" in vm.run(read("d", 9)).stdout
        assert graph(vm) == before

    @pytest.mark.qemuvm(disks=[DiskSpec("16M", serial="d")])
    def test_a_machine_with_a_hung_disk_can_be_paused_reset_and_stopped(self, vm: VM) -> None:
        fault = vm.faults.hung_disk("d")
        writing = Background(vm, f"sleep 0.1; {write('d')}; true")
        vm.wait_until_succeeds("awk '$2 {found=1} END {exit !found}' /sys/block/vda/inflight")
        vm.pause()
        vm.resume()
        fault.heal()
        assert writing.ended()
        # Its guest would not come up before it heals: it looks for partitions.
        with vm.faults.hung_disk("d"):
            vm.qmp.execute("system_reset")
            assert vm.state == "running"
        vm.reset()
        assert vm.run(write("d")).ok
        vm.faults.hung_disk("d")
        vm.stop(graceful=False)
        assert vm.stopped_by == "quit"
        assert vm.faults.active == ()

    @pytest.mark.qemuvm(template="bare", disks=[DiskSpec("16M", serial="d")])
    def test_the_slowest_of_several_counts_and_nothing_is_left(self, vm: VM) -> None:
        before = graph(vm)

        def limits() -> tuple[int, int]:
            objects = vm.monitor.execute("qom-list", {"path": "/objects"})
            (group,) = (each["name"] for each in objects if "throttle-group" in each["type"])
            found = vm.monitor.execute("qom-get", {"path": f"/objects/{group}", "property": "limits"})
            return found["bps-total"], found["iops-total"]

        first = vm.faults.slow_disk("d", bytes_per_second=1 << 20, iops=50)
        assert limits() == (1 << 20, 50)
        second = vm.faults.slow_disk("d", iops=20)
        assert limits() == (1 << 20, 20)
        first.heal()
        assert limits() == (0, 20)
        second.heal()
        assert graph(vm) == before


class TestTogether:
    @pytest.mark.qemuvm(template="bare", disks=[DiskSpec("16M", serial="d")])
    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
    def test_they_heal_in_any_order(self, vm: VM, order: tuple[int, ...], coherence: Observer) -> None:
        before = graph(vm)
        faults = [
            vm.faults.disk_error("d", on="read", sector=5),
            vm.faults.slow_disk("d", iops=100),
            vm.faults.read_only_disk("d"),
        ]
        for index in order:
            assert root(vm, "disk0") != "disk0-fmt"
            assert coherence.check() == []
            faults[index].heal()
        assert graph(vm) == before
        assert coherence.check() == []

    @pytest.mark.qemuvm(template="bare", disks=[DiskSpec("16M", serial="d")])
    def test_what_does_not_go_together_names_the_other(self, vm: VM) -> None:
        with vm.faults.hung_disk("d") as hung:
            before = graph(vm)
            with pytest.raises(DiskHasFault) as caught:
                vm.faults.disk_error("d")
            assert caught.value.fault == hung.what
            assert graph(vm) == before
        with vm.faults.disk_error("d", once=True), pytest.raises(DiskHasFault):
            vm.faults.read_only_disk("d")
        with vm.faults.slow_disk("d", iops=5), pytest.raises(DiskHasFault):
            vm.faults.hung_disk("d")
        assert vm.faults.active == ()

    @pytest.mark.qemuvm(template="bare")
    @pytest.mark.parametrize("bus", ["virtio", "scsi", "usb", "nvme"])
    def test_an_unplug_heals_first(self, vm: VM, bus: str, coherence: Observer) -> None:
        before = graph(vm)
        with vm.hotplug(DiskSpec("16M", bus=bus)) as disk:  # type: ignore[arg-type]
            faults = [vm.faults.disk_error(disk), vm.faults.slow_disk(disk, iops=3)]
        assert not any(fault.active for fault in faults)
        assert graph(vm) == before
        assert coherence.check() == []

    @pytest.mark.qemuvm(template="bare")
    def test_a_disk_that_went_by_itself_takes_its_faults_along(
        self, vm: VM, disk_factory: Callable[..., Disk]
    ) -> None:
        before = graph(vm)
        disk = disk_factory("16M")
        plugged = vm.attach(disk, bus="scsi")
        fault = vm.faults.disk_error(disk)
        since = vm.qmp.events.last
        vm.qmp.execute("device_del", {"id": plugged.id})
        vm.qmp.wait_event("DEVICE_DELETED", {"device": plugged.id}, since=since)
        vm.detach(disk)
        assert not fault.active
        assert graph(vm) == before
        assert disk.state == "available"

    def test_a_disk_grows_while_it_has_a_fault(self, vm: VM, disk_factory: Callable[..., Disk]) -> None:
        disk = disk_factory("16M", serial="grows")
        vm.attach(disk)
        with vm.faults.disk_error(disk, on="write", sector=3):
            disk.resize("32M")
            assert vm.run("lsblk -dno SIZE /dev/disk/by-id/virtio-grows").stdout.strip() == "32M"
        vm.run(write("grows", 5000))

    @pytest.mark.qemuvm(disks=[DiskSpec("16M", serial="d")])
    def test_a_snapshot_is_made_and_gone_back_to_with_a_fault(self, vm: VM, coherence: Observer) -> None:
        vm.run(write("d", 3, "before"))
        with vm.faults.disk_error("d", on=("read", "write"), sector=79):
            vm.snapshot("s")
            vm.run(write("d", 3, "after"))
            with vm.hotplug(DiskSpec("8M", serial="late")) as late:
                leaving = vm.faults.slow_disk(late, iops=1000)
                vm.restore("s")
            assert not leaving.active
            assert not vm.run(read("d", 9), check=False).ok
            assert "before" in vm.run(read("d", 3)).stdout
            assert coherence.check() == []
        vm.run(read("d", 9))
        assert coherence.check() == []

    @pytest.mark.qemuvm(disks=[DiskSpec("16M", serial="d")])
    def test_a_clone_of_a_machine_has_its_disks_and_not_their_faults(self, vm: VM) -> None:
        vm.run(write("d", 3, "common"))
        with vm.faults.disk_error("d", on=("write", "flush")):
            twin = vm.clone()
            assert not vm.run(write("d", 3, "mine"), check=False).ok
            twin.run(write("d", 3, "twins"))
            assert "twins" in twin.run(read("d", 3)).stdout
        assert "common" in vm.run(read("d", 3)).stdout

    @pytest.mark.qemuvm(template="bare", disks=[DiskSpec("16M", serial="d")])
    def test_they_end_with_the_machine(self, vm: VM) -> None:
        fault = vm.faults.disk_error("d")
        vm.kill()
        assert not fault.active
        fault.heal()
        vm.start()
        assert root(vm, "disk0") == format_node("disk0")


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("disk_error", {"disk": "nosuch"}),
            ("disk_error", {"disk": 2}),
            ("disk_error", {"disk": -1}),
            ("disk_error", {"disk": True}),
            ("disk_error", {"disk": None}),
            ("disk_error", {"disk": 0, "errno": "EWHAT"}),
            ("disk_error", {"disk": 0, "errno": errno.EIO}),
            ("disk_error", {"disk": 0, "on": "wipe"}),
            ("disk_error", {"disk": 0, "on": ()}),
            ("disk_error", {"disk": 0, "on": 5}),
            ("disk_error", {"disk": 0, "sector": 32768}),
            ("disk_error", {"disk": 0, "sector": -1}),
            ("disk_error", {"disk": 0, "sector": "1"}),
            ("disk_error", {"disk": 0, "sector": 1, "on": "flush"}),
            ("disk_error", {"disk": 0, "once": 1}),
            ("disk_error", {"disk": 0, "once": True, "on": ("read", "write")}),
            ("disk_error", {"disk": 1, "on": "write"}),
            ("read_only_disk", {"disk": 1}),
            ("slow_disk", {"disk": 0}),
            ("slow_disk", {"disk": 0, "iops": 0}),
            ("slow_disk", {"disk": 0, "iops": -5}),
            ("slow_disk", {"disk": 0, "bytes_per_second": 1.5}),
            ("slow_disk", {"disk": 0, "bytes_per_second": 10**16}),
            ("hung_disk", {"disk": "nosuch"}),
        ],
    )
    def test_it_is_refused_before_anything_is_touched(
        self, module_bare: VM, name: str, arguments: dict[str, object]
    ) -> None:
        before = graph(module_bare)
        with pytest.raises(SpecError):
            getattr(module_bare.faults, name)(**arguments)
        assert graph(module_bare) == before
        assert module_bare.faults.active == ()

    @pytest.mark.qemuvm(template="bare", disks=[DiskSpec("16M", serial="d", read_only=True)])
    def test_what_is_only_read_can_fail_to_be_read(self, vm: VM) -> None:
        before = graph(vm)
        with vm.faults.disk_error("d", on="read"), vm.faults.slow_disk("d", iops=9):
            assert root(vm, "disk0") != "disk0-fmt"
        assert graph(vm) == before

    def test_a_disk_with_an_iothread_can_fail_and_not_be_slow(self, vm_factory: Callable[..., VM]) -> None:
        spec = DiskSpec("16M", serial="d", properties={"iothread": "io"})
        vm = vm_factory(template="bare", disks=[spec], args=("-object", "iothread,id=io"))
        with vm.faults.disk_error("d"):
            assert root(vm, "disk0") != "disk0-fmt"
            with pytest.raises(SpecError):
                vm.faults.hung_disk("d")
        with pytest.raises(SpecError):
            vm.faults.slow_disk("d", iops=5)
        assert root(vm, "disk0") == "disk0-fmt"
        with pytest.raises(SpecError):
            DiskSpec("16M", properties={"iothread": "io"}, volatile_cache=True)

    @pytest.mark.qemuvm(template="bare")
    def test_a_disk_that_is_elsewhere_or_a_machine_that_does_not_run(
        self, vm: VM, disk_factory: Callable[..., Disk]
    ) -> None:
        disk = disk_factory("16M")
        with pytest.raises(NotAttached):
            vm.faults.hung_disk(disk)
        plugged = vm.attach(disk)
        vm.detach(disk)
        with pytest.raises(NotAttached):
            vm.faults.hung_disk(plugged)
        vm.stop()
        with pytest.raises(NotRunning):
            vm.faults.disk_error(disk)

    @pytest.mark.qemuvm(template="bare", disks=[DiskSpec("16M", serial="d")])
    def test_a_fault_that_fails_half_way_leaves_nothing(
        self, vm: VM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert vm.live is not None
        before = graph(vm)

        def refuse(*_: object) -> None:
            raise QemuVMError("no")

        monkeypatch.setattr(vm.live.layers, "_fill", refuse)
        with pytest.raises(QemuVMError, match="no"):
            vm.faults.hung_disk("d")
        assert graph(vm) == before
        assert vm.faults.active == ()
        assert vm.live.layers.nodes == frozenset()


@pytest.fixture(scope="module")
def module_bare(module_vm_factory: Callable[..., VM]) -> VM:
    return module_vm_factory(
        template="bare", disks=[DiskSpec("16M", serial="d"), DiskSpec("16M", read_only=True)]
    )
