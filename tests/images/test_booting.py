"""Machines that boot from the user's own image, by the firmware that QEMU ships."""

import pytest
from bootsector import LINE

from pytest_qemuvm import DiskSpec
from pytest_qemuvm.errors import CapabilityError, NoChannel, SpecError


def talk(vm, words):
    vm.console.expect(LINE)
    vm.console.send(words)
    vm.console.expect(words)


def test_a_template_of_bare_boots_its_image(vm_factory, template_factory, bootable, digest):
    path, image_format = bootable
    before = digest(path)
    template_factory("own", base="bare", image=path, format=image_format)
    vm = vm_factory(template="own")
    talk(vm, "hello")
    vm.reset()
    talk(vm, "again")
    vm.restart()
    talk(vm, "anew")
    vm.delete()
    assert digest(path) == before


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_so_does_a_vm_with_an_image(vm_factory, bootable, machine):
    path, image_format = bootable
    vm = vm_factory(machine=machine, image=path, format=image_format)
    talk(vm, "hello")
    assert vm.plan.boot == "disk"


@pytest.mark.parametrize("bus", ["virtio", "scsi", "nvme", "usb"])
def test_the_first_disk_may_be_on_any_bus(vm_factory, raw, bus):
    disks = [DiskSpec(path=raw, format="raw", bus=bus), DiskSpec("1M")]
    talk(vm_factory(boot="disk", disks=disks), bus)


def test_only_the_first_disk_is_offered_to_the_firmware(vm_factory, raw):
    vm = vm_factory(boot="disk", disks=[DiskSpec("1M"), DiskSpec(path=raw, format="raw")], start=False)
    (offered,) = [word for word in vm.argv if "bootindex" in word]
    assert '"disk0"' in offered
    assert "strict=on" in vm.argv


def test_there_is_no_channel_into_such_a_guest(vm_factory, raw):
    vm = vm_factory(image=raw, format="raw")
    with pytest.raises(NoChannel) as caught:
        vm.run("true")
    assert isinstance(caught.value, CapabilityError)
    assert "console" in caught.value.hint
    assert vm.state == "running"


def test_what_it_writes_goes_to_an_overlay_that_lasts_as_long_as_the_vm(vm_factory, raw):
    vm = vm_factory(image=raw, format="raw")
    overlay = vm.plan.images[0]
    assert (overlay.backing, overlay.backing_format) == (str(raw), "raw")
    vm.stop()
    assert vm.stopped_by == "quit"
    vm.start()
    talk(vm, "once more")


def test_with_boot_none_it_is_a_disk_like_any_other(vm_factory, disk_factory, raw):
    vm = vm_factory(image=raw, format="raw", boot="none")
    disk = disk_factory()
    vm.attach(disk)
    vm.detach(disk)  # nobody but the harness could let it go
    assert (vm.plan.boot, disk.state, vm.console.text) == ("none", "available", "")


def test_the_built_in_guest_has_it_as_its_first_disk(vm_factory, raw):
    vm = vm_factory(template="tiny", image=raw, format="raw")
    assert vm.run("head -c 2 /dev/disk/by-id/virtio-image").stdout_bytes == raw.read_bytes()[:2]


@pytest.mark.parametrize(
    "keywords",
    [
        {"template": "tiny", "boot": "disk"},
        {"template": "tiny", "boot": "none"},
        {"boot": "kernel"},
        {"boot": "disk"},
        {"boot": "network"},
        {"boot": 1},
        {"boot": "disk", "disks": [DiskSpec("1M")], "machine": "microvm"},
        {"boot": "disk", "disks": [DiskSpec("1M")], "kernel": __file__},
    ],
)
def test_what_cannot_boot_is_refused_before_anything_is_made(vm_factory, qemuvm, keywords):
    with pytest.raises(SpecError):
        vm_factory("one", start=False, **keywords)
    with pytest.raises(LookupError):
        qemuvm.vm("one")


def test_a_setup_by_commands_needs_a_channel(template_factory, raw):
    with pytest.raises(SpecError):
        template_factory("own", base="bare", image=raw, format="raw", setup="true")


def test_a_setup_may_talk_to_the_console(vm_factory, template_factory, raw, digest):
    before = digest(raw)
    template_factory("own", base="bare", image=raw, format="raw", setup=lambda vm: talk(vm, "setup"))
    talk(vm_factory(template="own"), "hello")
    assert digest(raw) == before


def test_a_machine_that_booted_an_image_goes_back_and_goes_on_twice(vm_factory, raw, digest, coherence):
    before = digest(raw)
    vm = vm_factory(image=raw, format="raw", hotplug_slots=2)
    talk(vm, "hello")
    vm.snapshot("booted")
    late = vm.hotplug(DiskSpec("1M"))
    vm.restore("booted")
    assert [device.id for device in vm.devices] == ["disk0"]
    assert not late.present
    twin = vm.clone()
    for each in (vm, twin):
        each.console.send(each.name)
        each.console.expect(each.name)
    assert vm.name not in twin.console.text
    assert coherence.check() == []
    twin.delete()
    vm.delete()
    assert digest(raw) == before
