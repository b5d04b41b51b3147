"""Every kind of finding, made for real: found, named, taken away."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from pytest_qemuvm import CdromSpec, DiskSpec, MemorySpec, NicSpec, RngSpec, SerialSpec, UsbSpec
from pytest_qemuvm.devices.steps import AddDevice
from pytest_qemuvm.errors import QemuVMError, SpecError, VMStateError

KINDS = {
    "virtio-blk": DiskSpec("16M"),
    "scsi": DiskSpec("16M", bus="scsi"),
    "nvme": DiskSpec("16M", bus="nvme"),
    "usb-storage": DiskSpec("16M", bus="usb"),
    "virtio-net": NicSpec(),
    "e1000e": NicSpec(model="e1000e"),
    "usb-kbd": UsbSpec(),
    "serial": SerialSpec("metrics"),
    "rng": RngSpec(),
    "cdrom": CdromSpec(__file__),
    "dimm": MemorySpec("128M"),
}


def test_a_test_that_leaves_nothing_behind_has_no_findings(vm, disk_factory, coherence):
    assert coherence.check() == []
    disk = disk_factory()
    vm.attach(disk)
    vm.hotplug(RngSpec())
    assert coherence.check() == []
    vm.detach(disk)
    vm.pause()
    assert coherence.check() == []
    vm.restart()
    assert coherence.check() == []
    vm.qmp.execute("stop")
    assert coherence.check() == []
    vm.stop()
    assert coherence.check() == []
    vm.delete()
    assert coherence.check() == []


# Records


def test_a_machine_killed_behind_the_harnesss_back(vm, look, coherence):
    os.kill(vm.pid, signal.SIGKILL)
    (finding,) = coherence.check()
    assert (finding.kind, finding.resource) == ("vm_state_mismatch", vm.name)
    assert "-9" in finding.found
    vm.restart()
    assert coherence.check() == []
    os.kill(vm.pid, signal.SIGKILL)
    look("vm_state_mismatch")
    assert (vm.state, vm.record.state) == ("stopped", "stopped")


@pytest.mark.parametrize("recorded", ["stopped", "paused"])
def test_a_record_that_says_what_is_not_so(vm, look, recorded):
    vm.record.state = recorded
    (finding,) = look("vm_state_mismatch")
    assert recorded in finding.expected
    assert vm.record.state == vm.state == "running"


def test_a_disk_whose_file_is_gone(disk_factory, coherence):
    disk = disk_factory(name="data")
    content = disk.path.read_bytes()
    disk.path.unlink()
    (finding,) = coherence.check()
    assert (finding.kind, finding.resource) == ("missing_disk", "data")
    disk.path.write_bytes(content)
    assert coherence.check() == []


def test_a_file_that_no_disk_knows(qemuvm, disk_factory, look):
    disk_factory()
    stranger = qemuvm.disk_dir / "stranger.qcow2"
    stranger.write_text("")
    (finding,) = look("orphan_disk")
    assert str(stranger) in finding.resource
    assert not stranger.exists()


def test_a_disk_recorded_as_attached_that_nobody_has(vm, disk_factory, coherence):
    disk = disk_factory(name="data")
    disk.record.state, disk.record.holder = "attached", vm.name
    (finding,) = coherence.check()
    assert (finding.kind, finding.resource) == ("disk_state_inconsistent", "data")
    disk.record.state, disk.record.holder = "available", None
    assert coherence.check() == []


def test_a_disk_recorded_as_available_that_a_machine_has(vm, disk_factory, coherence):
    disk = disk_factory(name="data")
    vm.attach(disk)
    disk.record.state = "available"
    (finding,) = coherence.check()
    assert (finding.kind, finding.resource) == ("disk_state_inconsistent", "data")
    assert vm.name in finding.found
    disk.record.state = "attached"


def test_a_disk_opened_around_the_helpers_is_told_from_both_sides(vm, disk_factory, look):
    disk = disk_factory()
    node = {"driver": "file", "node-name": "mine", "filename": str(disk.path)}
    vm.qmp.execute("blockdev-add", node)
    look("leaked_block_node", "disk_state_inconsistent")


# QEMU's graph


def leak_job(vm):
    vm.qmp.execute("blockdev-add", {"driver": "null-co", "node-name": "from", "size": 1 << 30})
    vm.qmp.execute("blockdev-add", {"driver": "null-co", "node-name": "to", "size": 1 << 30})
    backup = {"job-id": "copy", "device": "from", "target": "to", "sync": "full", "speed": 1 << 16}
    vm.qmp.execute("blockdev-backup", backup)


LEAKS = {
    "leaked_block_node": lambda vm: vm.qmp.execute(
        "blockdev-add", {"driver": "null-co", "node-name": "extra"}
    ),
    "leaked_netdev": lambda vm: vm.qmp.execute("netdev_add", {"type": "user", "id": "extra"}),
    "leaked_chardev": lambda vm: vm.qmp.execute(
        "chardev-add", {"id": "extra", "backend": {"type": "null", "data": {}}}
    ),
    "leaked_object": lambda vm: vm.qmp.execute("object-add", {"qom-type": "iothread", "id": "extra"}),
    "leaked_device": lambda vm: vm.qmp.execute(
        "device_add", {"driver": "virtio-balloon-pci", "id": "extra", "bus": "rp0"}
    ),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_what_is_left_in_qemu_is_found_named_and_removed(vm, look, kind):
    LEAKS[kind](vm)
    (finding,) = look(kind)
    assert finding.resource.endswith(" extra")
    assert finding.vm == vm.name


def test_a_job_goes_before_the_nodes_it_works_on(vm, look):
    leak_job(vm)
    look("leaked_job", "leaked_block_node", "leaked_block_node")


def test_nodes_that_rest_on_one_another_go_in_the_right_order(vm, look):
    (vm.run_dir / "image").write_bytes(bytes(1 << 20))
    for node in (
        {"driver": "file", "node-name": "a", "filename": "image"},
        {"driver": "raw", "node-name": "b", "file": "a"},
        {"driver": "throttle", "node-name": "c", "file": "b", "throttle-group": "group"},
    ):
        if node["driver"] == "throttle":
            vm.qmp.execute("object-add", {"qom-type": "throttle-group", "id": "group"})
        vm.qmp.execute("blockdev-add", node)
    look("leaked_block_node", "leaked_block_node", "leaked_block_node", "leaked_object")


def test_a_set_of_descriptors_and_the_disk_that_one_of_them_is_on(vm, disk_factory, look):
    with disk_factory().path.open("rb") as file:
        command = b'{"execute": "add-fd", "arguments": {"fdset-id": 7}, "id": "mine"}\n'
        socket.send_fds(vm.qmp._session.link._wire._out, [command], [file.fileno()])
    leak, disk = look("leaked_fdset", "disk_state_inconsistent")
    assert leak.key == "7"
    assert vm.name in disk.found  # by the kernel's word: no block node of QEMU's has it


def test_a_device_that_was_asked_to_go_and_not_waited_for(vm, look):
    LEAKS["leaked_device"](vm)
    vm.qmp.execute("device_del", {"id": "extra"})
    look("leaked_device")


def test_a_device_without_an_id_cannot_be_removed_and_that_is_said(vm, coherence):
    vm.qmp.execute("device_add", {"driver": "virtio-balloon-pci", "bus": "rp0"})
    findings = coherence.check()
    assert [finding.kind for finding in findings] == ["leaked_device"]
    assert list(coherence.clean(findings)) == findings
    vm.restart()
    assert coherence.check() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_that_fell_out_of_the_ledger_is_found(vm, kind, coherence):
    vm.hotplug(KINDS[kind])
    assert coherence.check() == []
    vm.live.hotplug._devices.clear()
    assert "leaked_device" in {finding.kind for finding in coherence.check()}
    vm.restart()
    assert coherence.check() == []


BACKENDS = [
    (kind, position)
    for kind, count in {
        "virtio-blk": 2, "scsi": 2, "nvme": 2, "usb-storage": 2, "virtio-net": 1, "e1000e": 1,
        "serial": 1, "rng": 1, "dimm": 1,
    }.items()
    for position in range(count)
]  # fmt: skip


@pytest.mark.parametrize(("kind", "position"), BACKENDS)
def test_an_inverse_that_is_forgotten_is_found(vm, kind, position, coherence, monkeypatch):
    """Mutation: of each kind of device, each backend in turn loses what would undo it."""
    device = vm.hotplug(KINDS[kind])
    steps = device.fragment.steps
    forgotten = steps[position]
    assert not isinstance(forgotten, AddDevice)
    kept = tuple(step for step in steps if step is not forgotten)
    object.__setattr__(device.fragment, "steps", kept)
    # A node that another one rests on stays: QEMU refuses to remove it, and the test is told.
    with contextlib.suppress(QemuVMError):
        device.unplug(timeout=3)  # nobody lets memory go where there is no guest
    findings = coherence.check()
    assert findings, f"{forgotten} was left and not found"
    vm.restart()
    assert coherence.check() == []


# The host


def test_a_process_that_carries_the_tag(tagged, vm, look):
    process = tagged("sleep", "1000")
    (finding,) = look("orphan_process")
    assert str(process.pid) in finding.resource
    assert not psutil.pid_exists(process.pid)


def test_a_qemu_started_by_hand_with_the_command_line_of_a_vm(vm_factory, coherence):
    vm = vm_factory(start=False)
    vm.start()
    vm.stop()
    argv = vm.plan.standalone_argv()
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        (finding,) = coherence.check()
        assert finding.kind == "orphan_process"
        assert any(word.startswith(f"guest={vm.name}@") for word in finding.key.argv)
        assert coherence.clean([finding]) == {}
        assert not psutil.pid_exists(process.pid)
    finally:
        process.kill()
        process.stdin.close()
        process.wait()


def test_a_child_that_nobody_waited_for(tagged, vm, look, coherence):
    process = tagged("sleep", "1000")
    assert [finding.kind for finding in coherence.check()] == ["orphan_process"]
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    look("zombie")


def test_a_pid_that_has_passed_to_another_process_is_left_alone(tagged, vm, coherence):
    process = tagged("sleep", "1000")
    (finding,) = coherence.check()
    object.__setattr__(finding.key, "start", finding.key.start - 1)
    assert coherence.clean([finding]) == {}
    assert process.poll() is None


@pytest.mark.parametrize("directory", ["", "disks@", "vm"])
def test_a_socket(vm, qemuvm, disk_factory, look, directory):
    disk_factory()
    path = qemuvm.root / (vm.name if directory == "vm" else directory) / "mine"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        look("orphan_socket")
    assert not path.exists()


@pytest.mark.parametrize(("name", "kind"), [("x.pid", "orphan_pidfile"), ("x.lock", "orphan_lock")])
def test_pid_and_lock_files(vm, qemuvm, look, name, kind):
    (qemuvm.root / name).write_text("1")
    look(kind)


def test_what_a_test_writes_into_a_machines_directory_goes_with_it_and_is_no_finding(vm, coherence):
    (vm.run_dir / "memory.dump").write_text("")
    assert coherence.check() == []


LOCK = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_disk_that_another_process_has_locked(vm, disk_factory, coherence):
    disk = disk_factory()
    locker = subprocess.Popen(
        [sys.executable, "-c", LOCK, str(disk.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with locker:
        assert locker.stdout.readline() == b"locked\n"
        (finding,) = coherence.check()
        assert (finding.kind, finding.resource) == ("foreign_lock", str(disk.path))
        assert str(locker.pid) in finding.found
        locker.communicate()
    assert coherence.check() == []
    with disk.path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert [finding.kind for finding in coherence.check()] == ["foreign_lock"]
    vm.attach(disk)  # QEMU locks it, which is as it should be
    assert coherence.check() == []


def test_a_template_that_is_written_to(template_factory, tmp_path, coherence):
    image = tmp_path / "image.raw"
    image.write_bytes(bytes(1 << 20))
    template = template_factory("mine", base="bare", image=image, format="raw")
    os.utime(image)
    assert coherence.check() == []
    image.write_bytes(b"x" + bytes((1 << 20) - 1))
    (finding,) = coherence.check()
    assert (finding.kind, finding.resource) == ("template_modified", "mine")
    assert str(image) in finding.found
    image.write_bytes(bytes(1 << 20))
    assert coherence.check() == []
    template.delete()


def test_a_disk_that_rests_on_what_is_gone(template_factory, disk_factory, tmp_path, coherence):
    image = tmp_path / "image.raw"
    image.write_bytes(bytes(1 << 20))
    template_factory("mine", base="bare", image=image, format="raw")
    disk_factory(name="over", template="mine")
    image.rename(tmp_path / "elsewhere")
    assert {finding.kind for finding in coherence.check()} == {"broken_backing_chain", "template_modified"}
    (tmp_path / "elsewhere").rename(image)
    assert coherence.check() == []


def ip(*args):
    return subprocess.run(["ip", *args], capture_output=True, text=True, check=False)


def test_a_network_device_that_carries_the_tag(vm, qemuvm, look):
    name = f"qv{os.getpid()}"
    made = ip("tuntap", "add", name, "mode", "tap")
    if made.returncode:
        pytest.skip(f"no network devices can be made here: {made.stderr.strip()}")
    try:
        assert ip("link", "set", name, "alias", f"{qemuvm.tag}/mine").returncode == 0
        (finding,) = look("orphan_tap")
        assert finding.resource == name
    finally:
        ip("link", "delete", "dev", name)


# The guest


@pytest.mark.qemuvm(template="tiny", needs="guest")
def test_a_panic_that_nobody_looked_at(vm, look, coherence):
    assert coherence.check() == []
    vm.wait_for_file("/run/qemuvm/settled")
    vm.console.send("echo c >/proc/sysrq-trigger")
    vm.qmp.events.wait("GUEST_PANICKED", None, 0).result(60)
    (finding,) = look("unseen_panic")
    assert "sysrq" in finding.found


@pytest.mark.qemuvm(template="tiny", needs="guest")
def test_a_panic_that_was_looked_at(vm, coherence):
    vm.wait_for_file("/run/qemuvm/settled")
    with pytest.raises(VMStateError):
        vm.run("echo c >/proc/sysrq-trigger; sleep 100")
    assert coherence.check() == []


@pytest.mark.qemuvm(template="tiny", needs="guest")
def test_a_panic_before_a_restart_is_not_forgotten(vm, look):
    vm.console.send("echo c >/proc/sysrq-trigger")
    vm.qmp.events.wait("GUEST_PANICKED", None, 0).result(60)
    vm.restart()
    look("unseen_panic")


@pytest.mark.qemuvm(template="tiny")
@pytest.mark.parametrize("kind", KINDS)
def test_devices_of_all_kinds_in_a_guest_are_no_findings(vm, kind, coherence):
    with vm.hotplug(KINDS[kind]):
        assert coherence.check() == []
    assert coherence.check() == []


@pytest.mark.qemuvm(template="tiny")
def test_memory_that_was_unplugged_by_emptying_it_is_no_leak(vm, coherence):
    vm.hotplug(MemorySpec("128M", kind="virtio-mem")).unplug()
    assert coherence.check() == []


# The check itself


def test_a_machine_that_does_not_answer_is_an_error_of_the_check(vm, coherence, monkeypatch):
    monkeypatch.setattr("pytest_qemuvm.machine.observer.ANSWER_SECONDS", 0.2)
    os.kill(vm.pid, signal.SIGSTOP)
    (finding,) = coherence.check()
    assert finding.kind == "check_error"
    assert vm.name in finding.resource
    os.kill(vm.pid, signal.SIGCONT)
    assert coherence.check() == []


def test_several_things_at_once(vm_factory, disk_factory, qemuvm, coherence, tagged):
    first, second = vm_factory("first"), vm_factory("second")
    disk = disk_factory(name="data")
    content = disk.path.read_bytes()
    disk.path.unlink()
    LEAKS["leaked_object"](first)
    os.kill(second.pid, signal.SIGKILL)
    tagged("sleep", "1000")
    (qemuvm.root / "x.lock").write_text("")
    findings = coherence.check()
    assert sorted(finding.kind for finding in findings) == [
        "leaked_object",
        "missing_disk",
        "orphan_lock",
        "orphan_process",
        "vm_state_mismatch",
    ]
    assert coherence.clean(findings) == {}
    disk.path.write_bytes(content)
    assert coherence.check() == []


def test_the_periodic_check_finds_what_comes_and_goes_and_its_thread_ends(vm, coherence):
    import threading

    before = threading.active_count()
    coherence.start(0.01)
    coherence.start(0.01)
    assert coherence.running
    assert threading.active_count() == before + 1
    with pytest.raises(SpecError):
        coherence.start(0)
    LEAKS["leaked_object"](vm)
    noticed = threading.Event()
    while not coherence.found:
        noticed.wait(0.01)
    vm.qmp.execute("object-del", {"id": "extra"})
    coherence.stop()
    coherence.stop()
    assert not coherence.running
    assert threading.active_count() == before
    assert [finding.kind for finding in coherence.found] == ["leaked_object"]
    assert coherence.check() == []


def test_machines_that_come_and_go_while_it_looks_are_no_findings(vm_factory, disk_factory, coherence):
    coherence.start(0.001)
    for _ in range(5):
        vm = vm_factory()
        disk = disk_factory()
        vm.attach(disk)
        with vm.hotplug(SerialSpec("metrics")), vm.hotplug(DiskSpec("1M", bus="scsi")):
            pass
        vm.pause()
        vm.resume()
        vm.detach(disk)
        vm.restart()
        vm.delete()
        disk.delete()
    coherence.stop()
    assert coherence.found == []


def test_the_questions_of_the_check_are_not_in_the_transcript(vm, coherence):
    vm.qmp.execute("query-version")
    before = vm.transcript()
    coherence.check()
    assert vm.transcript() == before
    assert not any("qom-list" in line for line in before)
