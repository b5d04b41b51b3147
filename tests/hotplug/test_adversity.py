"""Hot-plug when things go wrong: QEMU dies, the guest panics, time runs out, others are in the way.

Whatever happens, the error has a type, nothing is left half done, and the ledger says what is the case.
"""

import os
import signal
import threading
import time

import pytest

from pytest_qemuvm import CpuSpec, DiskSpec, RngSpec, SerialSpec
from pytest_qemuvm.devices.place import Image
from pytest_qemuvm.errors import (
    DiskStateError,
    NoFreeSlot,
    NotAttached,
    QemuVMError,
    QmpDisconnected,
    QmpTimeout,
    UnplugTimeout,
    VMStateError,
    WaitTimeout,
)


@pytest.fixture
def bare(vm_factory):
    return vm_factory(template="bare")


@pytest.fixture
def tiny(vm_factory):
    return vm_factory(template="tiny")


class InThread(threading.Thread):
    """Calls something, and keeps what it returned or raised."""

    def __init__(self, call, *args):
        super().__init__()
        self._call = call, args
        self.error = None
        self.start()

    def run(self):
        call, args = self._call
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001  # the test looks at it
            self.error = error

    def outcome(self):
        self.join(60)
        assert not self.is_alive()
        return self.error


def nodes(vm):
    return {node["node-name"] for node in vm.qmp.execute("query-named-block-nodes")}


def devices(vm):
    return {entry["name"] for entry in vm.qmp.execute("qom-list", {"path": "/machine/peripheral"})}


def files(vm):
    return {path.name for path in vm.run_dir.iterdir()}


def killed_while(vm, call, *args):
    """Return what a call raises when QEMU dies in the middle of it: it is stopped before, so there is one."""
    os.kill(vm.pid, signal.SIGSTOP)
    thread = InThread(call, *args)
    time.sleep(0.2)
    vm.kill()
    return thread.outcome()


@pytest.mark.parametrize("spec", [DiskSpec("1M"), RngSpec(), CpuSpec()], ids=repr)
def test_qemu_dies_during_a_plug(bare, spec):
    before = files(bare)
    assert isinstance(killed_while(bare, bare.hotplug, spec), QmpDisconnected)
    assert bare.devices == ()
    assert files(bare) == before
    bare.start()
    bare.hotplug(spec)


def test_qemu_dies_during_an_unplug(bare):
    device = bare.hotplug(DiskSpec("1M"))
    assert isinstance(killed_while(bare, device.unplug), QmpDisconnected)
    assert bare.devices == ()
    assert not device.present
    with pytest.raises(NotAttached):
        device.unplug()
    bare.start()
    bare.hotplug(DiskSpec("1M"))


def test_qemu_is_killed_from_outside_and_nothing_counts_as_plugged(bare, disk_factory):
    disk = disk_factory()
    bare.attach(disk)
    bare.hotplug(DiskSpec("1M"))
    os.kill(bare.pid, signal.SIGKILL)
    bare.wait_stopped()
    assert bare.devices == ()
    assert disk.state == "available"
    bare.restart()
    bare.hotplug(DiskSpec("1M"))


def test_each_run_begins_with_no_files_of_the_one_before(bare):
    before = files(bare)
    for _ in range(3):
        bare.hotplug(DiskSpec("1M"))
        bare.hotplug(DiskSpec("1M"))
        bare.restart()
        assert files(bare) == before


def test_of_two_threads_that_unplug_one_is_told_that_it_is_gone(bare):
    device = bare.hotplug(RngSpec())
    outcomes = [thread.outcome() for thread in [InThread(device.unplug) for _ in range(2)]]
    assert sorted(map(str, map(type, outcomes))) == sorted([str(type(None)), str(NotAttached)])


def test_who_waits_for_another_thread_waits_no_longer_than_granted(tiny):
    stuck, other = tiny.hotplug(RngSpec()), tiny.hotplug(DiskSpec("1M", bus="scsi"))
    tiny.pause()
    first = InThread(stuck.unplug, 5)
    time.sleep(0.3)
    begin = time.monotonic()
    with pytest.raises(WaitTimeout):
        other.unplug(0.2)
    assert time.monotonic() - begin < 3
    assert other.present
    assert isinstance(first.outcome(), UnplugTimeout)


def test_an_unplug_that_comes_true_after_its_time_can_be_finished(tiny):
    stuck = tiny.hotplug(DiskSpec("1M"))
    tiny.pause()
    with pytest.raises(UnplugTimeout):
        stuck.unplug(0.2)
    assert tiny.devices == (stuck,)
    tiny.resume()
    tiny.qmp.wait_event("DEVICE_DELETED", {"device": stuck.id}, since=0)
    stuck.unplug()
    assert tiny.devices == ()
    assert not {name for name in nodes(tiny) if name.startswith(stuck.id)}


def test_a_paused_guest_is_not_waited_for(tiny):
    before = devices(tiny), nodes(tiny), files(tiny)
    tiny.pause()
    begin = time.monotonic()
    with pytest.raises(VMStateError):
        tiny.hotplug(DiskSpec("1M"))
    assert time.monotonic() - begin < 10
    assert (devices(tiny), nodes(tiny), files(tiny)) == before
    tiny.resume()
    with tiny.hotplug(DiskSpec("1M")):
        pass


def test_what_cannot_be_taken_back_is_in_the_ledger(tiny, monkeypatch):
    """A guest that is paused between the plug and its own look at it neither takes the device nor lets go."""
    monkeypatch.setattr("pytest_qemuvm.machine.hotplug._ROLLBACK_SECONDS", 1.0)
    tiny.hotplug(RngSpec()).unplug()
    before = devices(tiny), nodes(tiny)
    thread = InThread(lambda: tiny.hotplug(DiskSpec("1M"), timeout=1))
    while devices(tiny) == before[0]:
        time.sleep(0.001)
    tiny.qmp.execute("stop")
    error = thread.outcome()
    assert isinstance(error, (WaitTimeout, type(None)))
    (device,) = tiny.devices
    assert error is None or device.id in error.__notes__[0]
    assert {device.id} == devices(tiny) - before[0]
    tiny.qmp.execute("cont")
    device.unplug()
    assert (devices(tiny), nodes(tiny)) == before


@pytest.mark.parametrize("template", ["bare", "tiny"])
def test_a_plug_while_another_thread_stops_the_machine(vm_factory, template):
    vm = vm_factory(template=template)
    before, stop = files(vm), threading.Event()
    errors = []

    def plug():
        while not stop.is_set():
            try:
                vm.hotplug(DiskSpec("1M", bus="scsi")).unplug()
            except QemuVMError as error:
                errors.append(error)
                return

    thread = InThread(plug)
    time.sleep(0.3)
    vm.stop()
    stop.set()
    assert thread.outcome() is None
    assert errors
    assert vm.devices == ()
    assert files(vm) - before <= {"qemu.log", "console.log"}


PANIC = "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger"


def test_a_guest_that_has_panicked_is_not_asked(tiny):
    asked, lun = tiny.hotplug(RngSpec()), tiny.hotplug(DiskSpec("1M", bus="scsi"))
    with pytest.raises(VMStateError):
        tiny.run(PANIC)
    begin = time.monotonic()
    with pytest.raises(VMStateError):
        asked.unplug()
    assert time.monotonic() - begin < 10
    assert tiny.devices == (asked, lun)
    lun.unplug()  # goes without the guest's consent
    assert tiny.devices == (asked,)
    with pytest.raises(VMStateError):
        tiny.hotplug(RngSpec())


def test_a_guest_that_panics_during_an_unplug_ends_it(tiny):
    device = tiny.hotplug(RngSpec())
    tiny.run(f"(sleep 0.1; {PANIC}) >/dev/null 2>&1 &")
    tiny.pause()
    begin = time.monotonic()
    thread = InThread(device.unplug)
    time.sleep(0.2)
    tiny.qmp.execute("cont")
    outcome = thread.outcome()
    assert time.monotonic() - begin < 15
    # The guest may have agreed before it panicked.
    assert isinstance(outcome, (VMStateError, type(None)))
    assert device.present == (device.id in devices(tiny)) == (device in tiny.devices)
    tiny.qmp.wait_event("GUEST_PANICKED", since=0)


def test_a_failure_in_the_body_is_kept_when_the_unplug_fails_too(tiny):
    device = tiny.hotplug(RngSpec())
    tiny.qmp.execute("stop")
    device.unplug = lambda: type(device).unplug(device, 0.2)
    with pytest.raises(ZeroDivisionError) as caught, device:
        raise ZeroDivisionError
    assert any(device.id in note for note in caught.value.__notes__)
    assert device.present
    tiny.qmp.execute("cont")


def test_a_failing_unplug_after_a_good_body_is_the_failure(tiny):
    device = tiny.hotplug(RngSpec())
    tiny.qmp.execute("stop")
    device.unplug = lambda: type(device).unplug(device, 0.2)
    with pytest.raises(UnplugTimeout), device:
        pass
    tiny.qmp.execute("cont")


@pytest.mark.qemuvm_expect("missing_disk")
def test_a_disk_whose_file_is_gone(bare, disk_factory):
    disk = disk_factory()
    disk.path.unlink()
    with pytest.raises(DiskStateError):
        bare.attach(disk)
    assert disk.state == "available"
    assert bare.devices == ()


@pytest.mark.qemuvm_expect("missing_disk")
def test_a_file_that_goes_while_it_is_plugged_is_no_hindrance(bare, disk_factory):
    disk, device = disk_factory(), bare.hotplug(DiskSpec("1M"))
    bare.attach(disk)
    disk.path.unlink()
    device.path.unlink()
    device.unplug()
    bare.detach(disk)
    assert bare.devices == ()


def test_a_path_that_speaks_of_locks_is_not_taken_for_a_lock(bare, tmp_path):
    image = Image(str(tmp_path / "block-lock.img"), "raw")
    with pytest.raises(ValueError, match="No such file"):
        bare.plug(DiskSpec("1M"), image, 30)


@pytest.mark.qemuvm_expect("leaked_device")
def test_ids_that_somebody_else_has_are_not_used(vm_factory):
    vm = vm_factory(template="bare", args=("-device", "virtio-scsi-pci,id=rng1"))
    vm.qmp.execute("device_add", {"driver": "usb-kbd", "id": "rng2", "bus": "usb.0"})
    device = vm.hotplug(RngSpec())
    assert device.id == "rng3"
    device.unplug()


@pytest.mark.qemuvm_expect("leaked_device")
def test_a_slot_that_somebody_else_has_is_not_used(vm_factory):
    vm = vm_factory(template="bare", hotplug_slots=2)
    port = vm.plan.free_ports[0]
    vm.qmp.execute("device_add", {"driver": "virtio-rng-pci", "id": "mine", "bus": port})
    device = vm.hotplug(RngSpec())
    assert device.supplies.place.bus != port
    with pytest.raises(NoFreeSlot):
        vm.hotplug(RngSpec())
    device.unplug()
    vm.hotplug(RngSpec())


def test_the_longest_name_of_a_serial_port(bare):
    with bare.hotplug(SerialSpec("p" * 63)) as device:
        assert device.path.is_socket()
        path = device.path
    assert not path.exists()


@pytest.mark.parametrize("seconds", [0, 1e-6])
def test_no_time_to_plug_leaves_nothing(bare, seconds):
    before = devices(bare), nodes(bare), files(bare)
    for spec in (DiskSpec("1M"), DiskSpec("1M", bus="scsi"), RngSpec()):
        with pytest.raises((WaitTimeout, QmpTimeout)):
            bare.hotplug(spec, timeout=seconds)
    assert bare.devices == ()
    assert (devices(bare), nodes(bare), files(bare)) == before
    assert "rng-src" not in str(bare.qmp.execute("qom-list", {"path": "/objects"}))
    for _ in range(4):  # all slots are free again
        bare.hotplug(RngSpec())


@pytest.mark.parametrize("spec", [DiskSpec("1M"), DiskSpec("1M", bus="scsi"), RngSpec()], ids=repr)
def test_no_time_to_unplug_can_be_made_up_for(bare, spec):
    before = devices(bare), nodes(bare), files(bare)
    device = bare.hotplug(spec)
    try:
        device.unplug(timeout=0)
    except UnplugTimeout:
        assert bare.devices == (device,)
        device.unplug()
    # Else this thread stood still for so long that the device had gone before it was waited for.
    assert bare.devices == ()
    assert (devices(bare), nodes(bare), files(bare)) == before


def test_a_guest_that_was_reset_is_waited_for_before_the_next_plug(tiny):
    tiny.hotplug(DiskSpec("1M")).unplug()
    tiny.reset()
    with tiny.hotplug(DiskSpec("1M", serial="after-reset")):
        assert tiny.run("ls /dev/disk/by-id/*after-reset").ok
