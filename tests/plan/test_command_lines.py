"""The command lines of some specs, as files: a change to one shows as a readable difference.

``QEMUVM_UPDATE_GOLDEN=1 pytest tests/plan`` writes them anew; read the difference before you commit it.
"""

import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_qemuvm import DiskSpec, DriverSpec, NicSpec, SerialSpec, VMSpec
from pytest_qemuvm.arch import ARCHITECTURES
from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.plan import MONITOR, Surroundings, plan_machine
from pytest_qemuvm.spec.boot import KernelBoot
from pytest_qemuvm.spec.network import Link

GOLDEN = Path(__file__).with_name("golden")

WORLD = Surroundings(
    name="vm0",
    tag="qv-0000000000",
    run_dir="/run/qemuvm/vm0",
    monitor="/run/qemuvm/qmp@0",
    arch=ARCHITECTURES["x86_64"],
    binary="/usr/bin/qemu-system-x86_64",
    accelerator="tcg",
    cpu_model="max",
    boot=KernelBoot("/cache/vmlinux", "/cache/initramfs", "console=ttyS0 quiet"),
)
BARE = replace(WORLD, boot=None)
KVM = replace(WORLD, accelerator="kvm", cpu_model="host")

SPECS = {
    "tiny": (VMSpec(), WORLD),
    "tiny-kvm-4-cpus": (VMSpec(cpus=4, memory="1G"), KVM),
    "tiny-many-cpus-pc": (VMSpec(cpus=6, machine="pc", append="debug"), WORLD),
    "tiny-microvm": (VMSpec(machine="microvm", disks=[DiskSpec("64M")], nics=[NicSpec()]), KVM),
    "bare": (VMSpec(template="bare"), BARE),
    "bare-no-sandbox": (
        VMSpec(template="bare", hotplug_slots=0, display=False),
        replace(BARE, sandbox=False),
    ),
    "disks-on-all-buses": (
        VMSpec(
            template="bare",
            disks=[
                DiskSpec("64M", serial="data"),
                DiskSpec("1G", bus="scsi", format="raw"),
                DiskSpec("1G", bus="nvme"),
                DiskSpec("16M", bus="usb", read_only=True),
            ],
        ),
        BARE,
    ),
    "disks-that-fail": (
        VMSpec(
            template="bare",
            disks=[
                DiskSpec("64M", on_error="stop"),
                DiskSpec("1G", bus="scsi", format="raw", on_error="report", volatile_cache=True),
            ],
        ),
        BARE,
    ),
    "nics": (
        VMSpec(
            nics=[NicSpec(forward=(22, 80)), NicSpec(model="e1000e", mac="52:54:00:AA:BB:CC", outward=True)]
        ),
        WORLD,
    ),
    "nics-of-networks": (
        VMSpec(template="bare", nics=[NicSpec(), NicSpec(forward=22)]),
        replace(
            BARE,
            links={
                "nic0": Link("lan", "dgram", "10.77.0.10"),
                "nic1": Link("out", "user", "10.0.2.15", subnet="10.0.2.0/24", served=True),
            },
        ),
    ),
    "drivers-and-properties": (
        VMSpec(
            template="bare",
            disks=[DiskSpec("64M", properties={"physical_block_size": 4096})],
            nics=[NicSpec(properties={"host_mtu": 1400, "mq": True})],
            serials=[SerialSpec("metrics", {"nr": 9})],
            devices=[
                DriverSpec("edu", {"dma_mask": 255}),
                DriverSpec("usb-tablet", bus="usb"),
                DriverSpec("scsi-cd", bus="scsi"),
                DriverSpec("virtserialport", {"name": "own, with a comma"}, bus="virtio-serial"),
                DriverSpec("isa-debugcon", {"iobase": 0x402}, bus="none"),
            ],
        ),
        BARE,
    ),
    "twelve-root-ports": (VMSpec(template="bare", hotplug_slots=12), BARE),
    "boots-its-first-disk": (
        VMSpec(template="bare", boot="disk", disks=[DiskSpec("1G"), DiskSpec("1G", bus="scsi")]),
        BARE,
    ),
    "boots-the-network": (
        VMSpec(template="bare", boot="network", disks=[DiskSpec("1G")], nics=[NicSpec(), NicSpec(boot=True)]),
        BARE,
    ),
    "boots-its-disk-or-the-network": (
        VMSpec(template="bare", boot="disk", disks=[DiskSpec("1G")], nics=[NicSpec(boot=True)], machine="pc"),
        BARE,
    ),
    "tiny-over-the-network": (
        VMSpec(boot="network", disks=[DiskSpec("1G")], nics=[NicSpec(model="e1000e", boot=True)]),
        WORLD,
    ),
    "serials-balloon-args": (
        VMSpec(serials=[SerialSpec("metrics")], balloon=True, args=("-rtc", "base=2000-01-01")),
        WORLD,
    ),
}


def as_lines(argv):
    lines = []
    for word in argv:
        if word.startswith("-") or not lines:
            lines.append([])
        lines[-1].append(word)
    return "".join(shlex.join(line) + "\n" for line in lines)


@pytest.mark.parametrize("name", SPECS)
def test_the_command_line_is_what_it_was(name):
    spec, world = SPECS[name]
    text = as_lines(plan_machine(spec, world).argv)
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("QEMUVM_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_no_golden_file_is_left_over():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(SPECS)


def test_a_plan_is_the_same_every_time():
    assert plan_machine(*SPECS["nics"]) == plan_machine(*SPECS["nics"])


def test_macs_differ_between_vms_and_sessions():
    spec = VMSpec(nics=[NicSpec(), NicSpec()])
    macs = {
        nic.mac
        for world in (WORLD, replace(WORLD, name="vm1"), replace(WORLD, tag="qv-1111111111"))
        for nic in plan_machine(spec, world).nics
    }
    assert len(macs) == 6
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)  # unicast, locally administered


def test_a_disk_of_the_users_is_written_through_an_overlay_and_never_probed(tmp_path):
    image = tmp_path / "mine, with a comma.img"
    image.write_bytes(bytes(1024 * 1024))
    plan = plan_machine(VMSpec(template="bare", disks=[DiskSpec(path=image, format="raw")]), BARE)
    (overlay,) = plan.images
    assert (overlay.backing, overlay.backing_format, overlay.format) == (str(image), "raw", "qcow2")
    assert str(image) not in " ".join(plan.argv)
    read_only = DiskSpec(path=image, format="raw", read_only=True)
    plan = plan_machine(VMSpec(template="bare", disks=[read_only]), BARE)
    assert not plan.images
    assert any('"driver":"raw"' in word and '"read-only":true' in word for word in plan.argv)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (VMSpec(machine="q53"), "q35"),
        (VMSpec(machine="microvm", disks=[DiskSpec("1G", bus="nvme")]), "nvme"),
        (VMSpec(machine="microvm", nics=[NicSpec(model="e1000e")]), "e1000e"),
        (VMSpec(machine="microvm", boot="network", nics=[NicSpec(boot=True)]), "no network"),
        (VMSpec(machine="microvm", devices=[DriverSpec("edu")]), "edu"),
        (VMSpec(machine="microvm", devices=[DriverSpec("usb-kbd", bus="usb")]), "usb-kbd"),
    ],
)
def test_what_a_machine_type_does_not_have_is_refused_in_the_plan(spec, said):
    with pytest.raises(SpecError) as caught:
        plan_machine(spec, KVM)
    assert said in str(caught.value)


def test_a_guest_on_a_machine_without_a_clock_is_refused_where_it_would_be_emulated():
    spec = VMSpec(machine="microvm")
    with pytest.raises(SpecError) as caught:
        plan_machine(spec, WORLD)
    assert "q35" in caught.value.hint
    assert plan_machine(spec, KVM).guest
    assert not plan_machine(spec, BARE).guest


def test_a_kernel_for_a_machine_without_a_guest_is_refused(tmp_path):
    kernel = tmp_path / "vmlinuz"
    kernel.touch()
    with pytest.raises(SpecError):
        plan_machine(VMSpec(template="bare", kernel=kernel), BARE)


def test_descriptors_are_filled_in_at_launch_and_replaced_for_a_shell():
    plan = plan_machine(*SPECS["serials-balloon-args"])
    numbers = {name: 100 + index for index, name in enumerate((*plan.sockets, MONITOR))}
    filled = plan.argv_with(numbers)
    assert "{fd:" not in " ".join(filled)
    assert f"socket,id=qmp,fd={numbers['qmp']}" in filled
    by_hand = plan.standalone_argv()
    assert "{fd:" not in " ".join(by_hand)
    assert "stdio,id=qmp" in by_hand
    assert "null,id=qmp2" in by_hand
    assert not any(word.startswith("socket,") for word in by_hand)


def test_a_hot_plug_says_the_same_as_the_command_line():
    plan = plan_machine(*SPECS["disks-on-all-buses"])
    disk = plan.devices[0].fragment
    assert [command.name for command in disk.plug()] == ["blockdev-add", "blockdev-add", "device_add"]
    assert [command.name for command in disk.unplug()] == ["device_del", "blockdev-del", "blockdev-del"]
    assert disk.unplug()[1].arguments == {"node-name": "disk0-fmt"}
