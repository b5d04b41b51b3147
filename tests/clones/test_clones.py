"""A VM that is a clone: of its own in everything, and otherwise what it would be had it booted."""

import hashlib
import re
import time

import pytest

from pytest_qemuvm import CpuSpec, DiskSpec, NicSpec, RngSpec, SerialSpec
from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.host.memory import copy_file


@pytest.fixture
def vm_spec():
    return {"template": "tiny"}


def loaded_of(qemuvm, vm):
    return qemuvm.live_templates._loaded[qemuvm.live_templates.key_of(vm.blueprint)]


def test_a_vm_is_a_clone(vm):
    assert (vm.started_as, vm.cold_because, vm.state) == ("clone", None, "running")
    assert vm.run("echo one").stdout == "one\n"
    assert vm.run("uname -s").stdout == "Linux\n"


def test_clones_alive_at_once_share_nothing(vm_factory, qemuvm):
    vms = [vm_factory(nics=[NicSpec()], disks=[DiskSpec("64M")]) for _ in range(8)]
    assert {vm.started_as for vm in vms} == {"clone"}
    for number, vm in enumerate(vms):
        vm.run(f"echo {number} >/root/mine; echo {number} >/dev/vda; sync")
    for number, vm in enumerate(vms):
        assert vm.run("cat /root/mine; head -n 1 /dev/vda").stdout == f"{number}\n{number}\n"
    said = [
        vm.run(
            "hostname; cat /etc/machine-id; cat /sys/class/net/eth0/address; cat /proc/sys/kernel/random/uuid"
        )
        for vm in vms
    ]
    rows = [result.stdout.split() for result in said]
    for column in zip(*rows, strict=True):
        assert len(set(column)) == len(vms)
    assert [row[0] for row in rows] == [vm.name for vm in vms]
    assert [row[2] for row in rows] == [vm.nics[0].mac for vm in vms]
    assert all(re.fullmatch("[0-9a-f]{32}", row[1]) for row in rows)
    ram = loaded_of(qemuvm, vms[0]).ram
    assert ram.sealed
    assert copy_file(ram.fileno(), None) == loaded_of(qemuvm, vms[0]).save.manifest.digests["ram"]


def test_the_first_random_bytes_differ(vm_factory):
    seen = {vm_factory().run("head -c 32 /dev/urandom | sha256sum").stdout for _ in range(3)}
    assert len(seen) == 3


def test_new_entropy_does_not_rest_on_one_device(vm_factory):
    """Not all kernels have a driver of vmgenid; without it the harness's own message has to do."""
    off = {"append": "initcall_blacklist=vmgenid_driver_init module_blacklist=vmgenid"}
    assert len({vm_factory(**off).run("cat /proc/sys/kernel/random/uuid").stdout for _ in range(2)}) == 2


def test_the_clock_is_right(vm):
    began = time.time()
    seen = int(vm.run("date +%s").stdout)
    assert began - 3 <= seen <= time.time() + 3


def test_the_console_goes_on_from_what_it_said_before(vm):
    assert "BusyBox" in vm.console.text
    assert "BusyBox" in (vm.run_dir / "console.log").read_text()
    vm.console.expect(r"# $")
    vm.console.send("echo from-$((40 + 2))")
    vm.console.expect(r"^from-42\n# $")  # QEMU writes what it has sent into the log a moment after
    assert "from-42" in (vm.run_dir / "console.log").read_text()


def test_what_was_a_clone_boots_when_it_is_started_again(vm_factory):
    vm = vm_factory(disks=[DiskSpec("64M")])
    vm.run("echo kept >/dev/vda; echo lost >/root/file; sync")
    before = vm.run("cat /proc/sys/kernel/random/boot_id").stdout
    vm.restart()
    assert vm.started_as == "cold"
    assert vm.run("head -n 1 /dev/vda; ls /root").stdout == "kept\n"
    assert vm.run("cat /proc/sys/kernel/random/boot_id").stdout != before
    assert vm.run("hostname").stdout == f"{vm.name}\n"


def test_a_clone_can_be_reset_paused_and_powered_down(vm):
    vm.pause()
    vm.resume()
    vm.reset()
    assert vm.run("echo again").stdout == "again\n"
    vm.stop()
    assert vm.stopped_by == "powerdown"


@pytest.mark.parametrize(
    "spec", [DiskSpec("16M"), NicSpec(), RngSpec(), CpuSpec()], ids=lambda spec: type(spec).__name__
)
def test_hardware_is_plugged_into_a_clone_and_out_of_it(vm, spec):
    with vm.hotplug(spec) as device:
        assert device.present
    assert device not in vm.devices


def test_ports_into_a_clone(vm_factory):
    import socket

    vm = vm_factory(nics=[NicSpec(forward=8000)], serials=[SerialSpec("line")])
    vm.run("nc -ll -p 8000 -e echo served >/dev/null 2>&1 &")
    vm.wait_for_port(8000)
    with socket.create_connection(("127.0.0.1", vm.port(8000)), timeout=30) as connection:
        assert connection.makefile().readline() == "served\n"


COLD = {
    "nvme": ({"disks": [DiskSpec("64M", bus="nvme")]}, "NVMe"),
    "balloon": ({"balloon": True}, "balloon"),
    "args": ({"args": ("-name", "other")}, "args="),
    "said": ({"start": "cold"}, "start='cold'"),
}


@pytest.mark.parametrize(("spec", "reason"), COLD.values(), ids=COLD)
def test_what_cannot_be_a_clone_boots_and_says_why(vm_factory, spec, reason):
    vm = vm_factory(**spec)
    assert vm.started_as == "cold"
    assert reason in vm.cold_because


def test_a_disk_of_disk_factory_is_not_saved_with_a_machine(vm_factory, disk_factory):
    vm = vm_factory(disks=[disk_factory("16M")])
    assert vm.started_as == "cold"
    assert "disk_factory" in vm.cold_because


def test_what_must_be_a_clone_and_cannot_is_refused(vm_factory, qemuvm):
    with pytest.raises(SpecError) as caught:
        vm_factory("nope", start="clone", disks=[DiskSpec("64M", bus="nvme")])
    assert "NVMe" in caught.value.brief
    assert qemuvm.vm("nope").state == "stopped"


def test_bare_has_nothing_to_clone(vm_factory):
    vm = vm_factory(template="bare")
    assert vm.started_as == "cold"
    with pytest.raises(SpecError):
        vm_factory(template="bare", start="clone")


def test_the_same_machine_under_other_names_is_one_template(vm_factory, qemuvm):
    keys = qemuvm.live_templates.key_of
    spec = {"start": False, "nics": [NicSpec()]}
    one, other = vm_factory("one", **spec), vm_factory("other", start=False, nics=[NicSpec(forward=80)])
    assert keys(one.blueprint) == keys(other.blueprint)
    different = (
        vm_factory(start=False),
        vm_factory(memory="192M", **spec),
        vm_factory(cpus=2, **spec),
        vm_factory(machine="pc", **spec),
        vm_factory(append="x=1", **spec),
        vm_factory(disks=[DiskSpec("64M")], **spec),
        vm_factory(disks=[DiskSpec("65M")], **spec),
        vm_factory(display=False, **spec),
        vm_factory(hotplug_slots=5, **spec),
    )
    found = {keys(vm.blueprint) for vm in (one, *different)}
    assert len(found) == len(different) + 1


def test_a_file_in_memory_can_be_sealed():
    import os

    from pytest_qemuvm.host.memory import MemoryFile

    memory = MemoryFile("test", 1 << 20)
    os.pwrite(memory.fileno(), b"once", 300_000)
    digest = copy_file(memory.fileno(), None)
    memory.seal()
    with pytest.raises(PermissionError):
        os.pwrite(memory.fileno(), b"twice", 0)
    copy = MemoryFile("copy")
    assert copy_file(memory.fileno(), copy.fileno()) == digest == copy_file(copy.fileno(), None)
    assert (
        hashlib.sha256(os.pread(copy.fileno(), 1 << 20, 0)).digest()
        == hashlib.sha256(os.pread(memory.fileno(), 1 << 20, 0)).digest()
    )
    memory.close()
    copy.close()
