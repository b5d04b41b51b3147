"""Snapshots of a machine with a guest: memory and disks go back together, in place, and the guest goes on."""

import threading
import time

import pytest

from pytest_qemuvm import CpuSpec, DiskSpec, MemorySpec, NicSpec, SerialSpec, UsbSpec
from pytest_qemuvm.errors import NotRunning, VMStateError, WaitTimeout


@pytest.mark.parametrize("start", ["cold", "clone"])
def test_memory_and_disks_go_back_together_in_place(vm_factory, coherence, start):
    vm = vm_factory(start=start, disks=[DiskSpec("64M", serial="data")], nics=[NicSpec()])
    pid, seen, names = vm.pid, vm.qmp.events.last, vm.run("hostname; cat /etc/machine-id").stdout
    addresses = vm.run("cat /sys/class/net/*/address").stdout
    vm.run("mke2fs -q /dev/disk/by-id/virtio-data; mkdir /mnt; mount /dev/disk/by-id/virtio-data /mnt")
    write = "echo {0} >/tmp/file; echo {0} >/mnt/file; sync"
    for word in ("one", "two"):
        vm.run(write.format(word))
        vm.snapshot(word)
    vm.run(write.format("three") + "; hostname other; echo other >/etc/machine-id")
    for word in ("one", "two", "one", "one", "two"):
        vm.restore(word)
        assert vm.run("cat /tmp/file /mnt/file").stdout == f"{word}\n{word}\n"
        vm.run("echo 3 >/proc/sys/vm/drop_caches")
        assert vm.read_text("/mnt/file") == f"{word}\n"
        vm.run(write.format("four"))
    assert vm.run("hostname; cat /etc/machine-id").stdout == names
    assert vm.run("cat /sys/class/net/*/address").stdout == addresses
    assert (vm.pid, vm.state, vm.record.state) == (pid, "running", "running")
    assert vm.qmp.events.last > seen
    assert vm.snapshots == ("one", "two")
    assert coherence.check() == []


def test_processes_of_the_snapshot_run_on_and_later_ones_never_were(vm):
    vm.run("(while :; do date +%s >/tmp/early; sleep 0.2; done) >/dev/null 2>&1 &")
    vm.snapshot("clean")
    vm.run("(while :; do date +%s >/tmp/late; sleep 0.2; done) >/dev/null 2>&1 &")
    vm.wait_for_file("/tmp/late")
    vm.restore("clean")
    vm.run("rm -f /tmp/early")
    vm.wait_for_file("/tmp/early")
    assert not vm.run("test -e /tmp/late", check=False).ok


def test_each_time_the_guest_has_the_right_time_and_other_random_numbers(vm):
    vm.snapshot("clean")
    seen = set()
    for _ in range(4):
        vm.restore("clean")
        assert abs(float(vm.run("date +%s").stdout) - time.time()) < 5
        seen.add(vm.run("head -c 16 /dev/urandom | hexdump -C").stdout)
    assert len(seen) == 4


def test_a_guest_that_was_paused_has_the_right_time_when_it_is_resumed(vm):
    vm.run("date -s 2001-01-01")
    vm.pause()
    vm.snapshot("paused")
    vm.resume()
    assert vm.run("date +%Y").stdout == "2001\n"
    vm.restore("paused")
    assert vm.state == "paused"
    vm.resume()
    assert abs(float(vm.run("date +%s").stdout) - time.time()) < 5


def test_console_events_and_waits_go_on(vm):
    vm.snapshot("clean")
    vm.run("echo before >/dev/console")
    vm.console.expect("before")
    with vm.qmp.expect_event("STOP", timeout=30):
        vm.restore("clean")
    assert "before" in vm.console.text
    vm.run("echo after >/dev/console")
    vm.console.expect("after")
    vm.console.send("echo $((6 * 7))")
    vm.console.expect("^42$")
    vm.pause()
    vm.qmp.wait_event("STOP", timeout=30)
    vm.resume()


def test_hot_plugged_devices_are_those_of_the_snapshot_also_for_the_guest(vm_factory, coherence):
    vm = vm_factory(hotplug_slots=4)
    disk = vm.hotplug(DiskSpec("16M", serial="data"))
    vm.run("echo old | dd of=/dev/disk/by-id/virtio-data conv=notrunc 2>/dev/null; sync")
    usb, port, nic = vm.hotplug(UsbSpec()), vm.hotplug(SerialSpec("metrics")), vm.hotplug(NicSpec())
    vm.snapshot("plugged")
    vm.run("echo new | dd of=/dev/disk/by-id/virtio-data conv=notrunc 2>/dev/null; sync")
    for device in (disk, usb, port, nic):
        device.unplug()
    late = vm.hotplug(DiskSpec("16M", serial="late"))
    vm.restore("plugged")
    assert vm.devices == (disk, usb, port, nic)
    assert not late.present
    assert vm.run("head -c 4 /dev/disk/by-id/virtio-data").stdout == "old\n"
    assert vm.run(f"cat /sys/class/net/*/address | grep -ic {nic.mac}").stdout == "1\n"
    assert vm.run("ls /dev/virtio-ports/metrics; ls -d /sys/bus/usb/devices/*/serial | wc -l").ok
    assert not vm.run("ls /dev/disk/by-id/*late", check=False).ok
    for device in vm.devices:
        device.unplug()
    with vm.hotplug(DiskSpec("16M", serial="again")):
        assert vm.run("ls /dev/disk/by-id/virtio-again").ok
    assert coherence.check() == []


def test_memory_that_the_guest_gives_back_goes_and_comes_again(vm_factory):
    vm = vm_factory(memory="192M")
    total = "grep MemTotal /proc/meminfo"
    small = vm.run(total).stdout
    vm.snapshot("small")
    module = vm.hotplug(MemorySpec("128M"))
    large = vm.run(total).stdout
    vm.snapshot("large")
    for name, seen, devices in (("small", small, ()), ("large", large, (module,)), ("small", small, ())):
        vm.restore(name)
        assert vm.run(total).stdout == seen != ""
        assert vm.devices == devices


def test_memory_of_changing_size_is_what_it_was(vm_factory):
    vm = vm_factory(memory="192M")
    memory = vm.hotplug(MemorySpec("256M", kind="virtio-mem"))
    vm.snapshot("full")
    memory.resize("128M")
    vm.snapshot("half")
    size = {"path": f"/machine/peripheral/{memory.id}", "property": "size"}
    for name, expected in (("full", 256), ("half", 128), ("full", 256)):
        vm.restore(name)
        assert vm.qmp.execute("qom-get", size) == expected << 20
    memory.unplug()
    vm.restore("half")
    assert vm.devices == (memory,)
    assert vm.qmp.execute("qom-get", size) == 128 << 20
    memory.resize("256M")


def test_processors_go_where_qemu_can_do_it_and_else_nothing_is_touched(vm_factory):
    vm = vm_factory()
    count = "grep -c ^processor /proc/cpuinfo"
    early = vm.hotplug(CpuSpec())
    vm.snapshot("two")
    vm.restore("two")
    assert vm.run(count).stdout == "2\n"
    late = vm.hotplug(CpuSpec())
    old = vm.qmp.greeting["version"]["qemu"]["major"] < 10
    if old and any(word.startswith("tcg") for word in vm.argv):
        with pytest.raises(VMStateError):
            vm.restore("two")
        assert vm.devices == (early, late)
        assert vm.run(count).stdout == "3\n"
    else:
        vm.restore("two")
        assert vm.devices == (early,)
        assert vm.run(count).stdout == "2\n"
        vm.hotplug(CpuSpec())
        assert vm.run(count).stdout == "3\n"


def test_a_guest_that_has_panicked_lives_again(vm, coherence):
    vm.snapshot("clean")
    for _ in range(2):
        with pytest.raises(VMStateError):
            vm.run("echo c >/proc/sysrq-trigger")
        assert vm.state == "guest-panicked"
        with pytest.raises(VMStateError):
            vm.snapshot("panicked")
        vm.restore("clean")
        assert vm.state == "running"
        assert vm.run("echo alive").stdout == "alive\n"
        vm.hotplug(DiskSpec("16M")).unplug()
        vm.hotplug(DiskSpec("16M"))
    assert coherence.check() == []


def test_a_machine_that_was_paused_before_it_panicked_is_paused(vm):
    vm.pause()
    vm.snapshot("paused")
    vm.resume()
    with pytest.raises(VMStateError):
        vm.run("echo c >/proc/sysrq-trigger")
    vm.restore("paused")
    assert (vm.state, vm.record.state) == ("paused", "paused")
    vm.resume()
    assert vm.run("echo alive").stdout == "alive\n"


def test_a_guest_that_has_restarted_since_goes_back_to_its_earlier_boot(vm):
    vm.run("echo kept >/tmp/file")
    vm.snapshot("first-boot")
    boot = vm.run("cat /proc/sys/kernel/random/boot_id").stdout
    vm.reset()
    assert not vm.run("test -e /tmp/file", check=False).ok
    vm.restore("first-boot")
    assert vm.run("cat /tmp/file /proc/sys/kernel/random/boot_id").stdout == "kept\n" + boot


def test_commands_of_other_threads_are_waited_for_and_work_afterwards(vm):
    vm.snapshot("clean")
    results = []
    begun = threading.Event()

    def work():
        begun.set()
        results.append(vm.run("sleep 1; echo done").stdout)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait(10)
    vm.restore("clean")
    for thread in threads:
        thread.join()
    assert results == ["done\n"] * 3
    assert [vm.run(f"echo {number}").stdout for number in range(5)] == [f"{number}\n" for number in range(5)]


def test_a_command_that_never_ends_is_named_by_the_time_out_and_nothing_is_touched(vm):
    vm.snapshot("clean")
    vm.run("echo new >/tmp/file")
    thread = threading.Thread(target=lambda: vm.run("touch /tmp/begun; sleep 20", check=False))
    thread.start()
    vm.wait_for_file("/tmp/begun")
    with pytest.raises(WaitTimeout):
        vm.restore("clean", timeout=0.5)
    assert vm.state == "running"
    assert vm.read_text("/tmp/file") == "new\n"
    vm.run("pkill sleep || killall sleep", check=False)
    thread.join()
    vm.restore("clean")
    assert not vm.run("test -e /tmp/file", check=False).ok


def test_a_command_that_was_given_up_is_not_carried_out_in_the_restored_guest(vm):
    vm.snapshot("clean")
    vm.pause()
    with pytest.raises(WaitTimeout):
        vm.run("touch /tmp/ghost", timeout=0.2)
    vm.restore("clean")
    with pytest.raises(WaitTimeout):
        vm.run("sleep 30; touch /tmp/ghost", timeout=0.2)
    vm.restore("clean")
    assert vm.run("ls /tmp/ghost; ps | grep '[s]leep 30'", check=False).stdout == ""
    assert [vm.run(f"echo {number}").stdout for number in range(3)] == [f"{number}\n" for number in range(3)]


def test_while_another_thread_plugs_each_waits_for_the_other(vm_factory, coherence):
    vm = vm_factory(hotplug_slots=4)
    vm.snapshot("clean")
    plugged = []
    threads = [threading.Thread(target=lambda: plugged.append(vm.hotplug(DiskSpec("16M")))) for _ in range(3)]
    for thread in threads:
        thread.start()
    vm.restore("clean")
    for thread in threads:
        thread.join()
    assert len(plugged) == 3
    assert set(vm.devices) == {device for device in plugged if device.present}
    vm.restore("clean")
    assert vm.devices == ()
    assert coherence.check() == []


def test_a_guest_that_has_switched_itself_off_cannot_go_back(vm):
    vm.snapshot("clean")
    with pytest.raises(NotRunning):
        vm.run("poweroff; sleep 60")
    vm.wait_stopped(60)
    with pytest.raises(NotRunning):
        vm.restore("clean")
