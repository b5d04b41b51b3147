"""Images of the user's: what they are is checked before they are used, and compared when nobody uses them."""

import os
import struct
import subprocess

import pytest

from pytest_qemuvm import CdromSpec, DiskSpec
from pytest_qemuvm.errors import ImageFormatError, ImageModified, SpecError, TemplateModified
from pytest_qemuvm.host.chains import chain_of
from pytest_qemuvm.host.sources import ALWAYS_READ, Seen, Sources


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "user's, own.img"
    path.write_bytes(bytes(1024**2))
    return path


@pytest.fixture
def with_data_file(tmp_path, qemu_img):
    """A qcow2 image that keeps its data in another file."""
    path, data = tmp_path / "outer.qcow2", tmp_path / "data.raw"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={data}", path, "1M")
    subprocess.run(["qemu-io", "-c", "write -P 7 0 64k", path], check=True, capture_output=True)
    return path, data


@pytest.mark.parametrize("read_only", [False, True])
def test_an_image_that_changes_under_a_vm_is_named_when_the_vm_goes(vm_factory, image, scribble, read_only):
    vm = vm_factory(disks=[DiskSpec(path=image, format="raw", read_only=read_only)])
    scribble(image)
    vm.restart()
    with pytest.raises(ImageModified) as caught:
        vm.delete()
    assert caught.value.paths == (str(image),)
    assert (vm.state, vm.run_dir.exists()) == ("stopped", False)
    vm.delete()  # said once


def test_an_image_of_the_spec_is_watched_too(vm_factory, image, scribble):
    vm = vm_factory(image=image, format="raw")
    image.unlink()
    with pytest.raises(ImageModified):
        vm.delete()


def test_an_image_that_changes_under_a_plugged_disk_is_named_when_it_has_gone(vm_factory, image, scribble):
    vm = vm_factory()
    disk = vm.hotplug(DiskSpec(path=image, format="raw"))
    scribble(image)
    with pytest.raises(ImageModified):
        disk.unplug()
    assert vm.devices == ()
    assert not disk.path.exists()


def test_a_medium_is_watched_as_long_as_it_is_in_the_drive(vm_factory, image, tmp_path, scribble):
    other = tmp_path / "other.iso"
    other.write_bytes(bytes(65536))
    vm = vm_factory()
    drive = vm.hotplug(CdromSpec(path=image))
    drive.eject()
    scribble(image)
    drive.unplug()
    drive = vm.hotplug(CdromSpec())
    drive.change_medium(other)
    scribble(other)
    drive.change_medium(image)
    with pytest.raises(ImageModified) as caught:
        vm.delete()
    assert caught.value.paths == (str(other),)


def test_what_went_with_the_machine_is_compared_when_it_has_ended(vm_factory, image, scribble):
    vm = vm_factory()
    vm.hotplug(DiskSpec(path=image, format="raw"))
    vm.stop()
    scribble(image)  # nobody uses it now
    vm.start()
    vm.hotplug(DiskSpec(path=image, format="raw"))
    scribble_again = image.read_bytes()[:-1] + b"?"
    image.write_bytes(scribble_again)
    vm.stop()
    with pytest.raises(ImageModified):
        vm.delete()


def test_what_nobody_uses_may_change(vm_factory, template_factory, image, scribble):
    for number in range(2):
        disks = [DiskSpec(path=image, format="raw")]
        vm_factory(disks=disks, image=image, format="raw").delete()
        template_factory(f"t{number}", base="bare", image=image, format="raw").delete()
        scribble(image)
        image.write_bytes(image.read_bytes()[:-2] + bytes([number, number]))


def test_only_contents_count(vm_factory, image):
    vm = vm_factory(disks=[DiskSpec(path=image, format="raw")])
    copy = image.with_suffix(".copy")
    copy.write_bytes(image.read_bytes())
    copy.replace(image)
    vm.delete()


def test_a_templates_image_is_the_templates_to_watch(vm_factory, template_factory, image, scribble):
    template = template_factory("own", base="bare", image=image, format="raw")
    vm = vm_factory(template=template)
    scribble(image)
    vm.delete()
    with pytest.raises(TemplateModified) as caught:
        template.delete()
    assert isinstance(caught.value, ImageModified)


def test_everything_below_an_image_is_watched(vm_factory, image, tmp_path, qemu_img, scribble):
    top = tmp_path / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", image, "-F", "raw", top)
    vm = vm_factory(disks=[DiskSpec(path=top)])
    scribble(image)
    with pytest.raises(ImageModified) as caught:
        vm.delete()
    assert caught.value.paths == (str(image),)


def test_an_external_data_file_is_watched(vm_factory, with_data_file, scribble):
    path, data = with_data_file
    assert chain_of(path, "qcow2") == (path, data)
    vm = vm_factory(disks=[DiskSpec(path=path)])
    scribble(data)
    with pytest.raises(ImageModified) as caught:
        vm.delete()
    assert caught.value.paths == (str(data),)


def test_an_external_data_file_that_is_missing_or_not_named_is_refused(vm_factory, with_data_file):
    path, data = with_data_file
    data.unlink()
    with pytest.raises(SpecError) as caught:
        vm_factory(disks=[DiskSpec(path=path)], start=False)
    assert "data.raw" in caught.value.brief
    header = bytearray(path.read_bytes())
    (length,) = struct.unpack_from(">I", header, 100)
    header[length : length + 8] = bytes(8)  # no extensions
    path.write_bytes(header)
    with pytest.raises(ImageFormatError):
        vm_factory(disks=[DiskSpec(path=path)], start=False)


WRONG = {
    "qcow2": (b"QFI\xfb\0\0\0\3", "raw"),
    "vmdk": (b"KDMV", "raw"),
    "vmdk descriptor": (b"# Disk DescriptorFile\nversion=1", "raw"),
    "vhdx": (b"vhdxfile", "raw"),
    "vpc": (b"conectix", "raw"),
    "qed": (b"QED\0", "raw"),
    "vdi": (b"<<< Oracle VM VirtualBox Disk Image >>>".ljust(64) + b"\x7f\x10\xda\xbe", "raw"),
    "raw": (b"\0", "qcow2"),
}


@pytest.fixture(params=WRONG)
def wrong(request, tmp_path):
    content, said = WRONG[request.param]
    path = tmp_path / "wrong.img"
    path.write_bytes(content.ljust(65536, b"\0"))
    return path, said


def test_an_image_that_is_not_what_its_format_says_is_refused_before_a_launch(vm_factory, qemuvm, wrong):
    path, said = wrong
    for keywords in (
        {"image": path, "format": said},
        {"disks": [DiskSpec(path=path, format=said)]},
        {"disks": [DiskSpec(path=path, format=said, read_only=True)]},
    ):
        with pytest.raises(ImageFormatError) as caught:
            vm_factory("one", start=False, **keywords)
        assert (caught.value.path, caught.value.format) == (str(path), said)
    assert not (qemuvm.root / "one").exists()
    assert "one" not in [vm.name for vm in qemuvm.vms()]


def test_and_before_a_plug(vm_factory, wrong):
    path, said = wrong
    vm = vm_factory()
    before = len(vm.qmp.transcript())
    with pytest.raises(ImageFormatError):
        vm.hotplug(DiskSpec(path=path, format=said))
    assert len(vm.qmp.transcript()) == before
    assert vm.devices == ()


def test_an_image_that_became_another_between_plan_and_start_is_refused(vm_factory, image):
    vm = vm_factory(disks=[DiskSpec(path=image, format="raw")], start=False)
    image.write_bytes(b"QFI\xfb".ljust(65536, b"\0"))
    with pytest.raises(ImageFormatError):
        vm.start()
    assert not vm.run_dir.exists()


@pytest.mark.parametrize("name", ["missing.img", ".", "/proc/self/mem"])
def test_what_cannot_be_read_as_an_image_is_refused(vm_factory, template_factory, tmp_path, name):
    path = tmp_path / name  # the last one is there, may be opened, and gives an error when it is read
    for act in (vm_factory, lambda **keywords: template_factory("one", base="bare", **keywords)):
        with pytest.raises(SpecError):
            act(image=path, format="raw")
    with pytest.raises(SpecError):
        vm_factory(disks=[DiskSpec(path=path, format="raw")])


def test_a_medium_that_cannot_be_read_is_refused(vm_factory):
    vm = vm_factory()
    with pytest.raises(SpecError):
        vm.hotplug(CdromSpec(path="/proc/self/mem"))
    assert vm.devices == ()


def test_a_large_file_is_read_once_for_all(tmp_path):
    path = tmp_path / "large.img"
    with path.open("wb") as file:
        file.truncate(ALWAYS_READ + 1)
    link = tmp_path / "link"
    link.symlink_to(path)
    sources = Sources()
    assert sources.look(path) is sources.look(link)
    watch = sources.watch([path])
    os.utime(path)
    assert watch.changed("all") == []
    with path.open("r+b") as file:
        file.write(b"!")
    assert watch.changed() == [path]


def test_times_of_a_file_that_was_just_written_are_not_believed(image):
    ahead = image.stat().st_mtime_ns + 3600 * 10**9  # as on a host whose clock was set back
    os.utime(image, ns=(ahead, ahead))
    sources = Sources()
    first = sources.look(image)
    assert not first.settled
    assert sources.look(image) is not first
    aged = Seen(first.identity, first.digest, settled=True)
    assert aged.is_surely(first.identity)
    assert not aged.is_surely((*first.identity[:-1], first.identity[-1] + 1))
