"""Templates: named starts for VMs and disks, kept as long as something rests on them."""

import hashlib
import os
import struct
import subprocess

import pytest

from pytest_qemuvm import DiskSpec
from pytest_qemuvm.errors import (
    GuestCommandTimeout,
    ImageFormatError,
    SpecError,
    TemplateExists,
    TemplateInUse,
    TemplateModified,
    TemplateNotFound,
)


def digest(path):
    return hashlib.sha256(path.read_bytes()).digest()


def test_a_vm_has_its_templates_keywords_and_its_own_over_them(vm_factory, template_factory):
    web = template_factory("web", base="bare", memory="64M", cpus=2)
    big = template_factory("big", base=web, memory="128M")
    by_name = vm_factory(template="web", start=False)
    by_handle = vm_factory(template=big, cpus=3)
    assert (by_name.spec.template, by_name.spec.bytes >> 20, by_name.spec.cpus) == ("web", 64, 2)
    assert (by_handle.spec.bytes >> 20, by_handle.spec.cpus, by_handle.state) == (128, 3, "running")
    assert by_handle.spec.memory != vm_factory(template=big, memory="256M", start=False).spec.memory


def test_a_template_that_something_rests_on_is_not_deleted(vm_factory, disk_factory, template_factory, image):
    web = template_factory("web", base="bare", image=image, format="qcow2")
    assert web.users == ()
    vm, disk, child = (
        vm_factory("one", template="web"),
        disk_factory(template=web),
        template_factory("c", base=web),
    )
    with pytest.raises(TemplateInUse) as caught:
        web.delete()
    assert set(caught.value.users) == set(web.users) == {"one", disk.name, "c"}
    assert vm.state == "running"
    vm.delete()
    disk.delete()
    child.delete()
    web.delete()
    assert image.exists()
    with pytest.raises(TemplateNotFound):
        vm_factory(template="web")
    web.delete()


def test_names_are_unique_and_looked_up(template_factory, qemuvm, vm_factory):
    web = template_factory("web", base="bare")
    assert qemuvm.template("web") is web
    assert web in qemuvm.templates()
    for taken in ("web", "tiny", "bare"):
        with pytest.raises(TemplateExists):
            template_factory(taken, base="bare")
    for act in (
        qemuvm.template,
        lambda name: template_factory("x", base=name),
        lambda n: vm_factory(template=n),
    ):
        with pytest.raises(TemplateNotFound) as caught:
            act("wep")
        assert "'web'" in caught.value.hint
    for wrong in ("", "a/b", "-x", 7, None):
        with pytest.raises(SpecError):
            template_factory(wrong, base="bare")
    with pytest.raises(SpecError):
        qemuvm.template("bare").delete()


@pytest.mark.parametrize(
    "keywords",
    [
        {"memroy": "1G"},
        {"template": "tiny"},
        {"memory": "512"},
        {"format": "qcow2"},
        {"image": "/nowhere/image.qcow2", "format": "qcow2"},
        {"image": __file__},
        {"image": __file__, "format": "vmdk"},
        {"image": __file__, "format": "qcow2"},
        {"setup": 7},
        {"setup": ["true", 7]},
        {"setup": "true"},  # bare has no guest to run it
        {"setup_timeout": 5},
        {"setup": lambda vm: None, "setup_timeout": 5},
        {"setup": "true", "setup_timeout": 0},
    ],
)
def test_what_cannot_be_is_refused_and_the_name_stays_free(template_factory, keywords, qemuvm):
    with pytest.raises(SpecError):
        template_factory("web", base="bare", **keywords)
    assert qemuvm.templates() == []
    template_factory("web", base="bare")


def header(version=3, backing=b"", backing_format=None):
    """Return a qcow2 header as others might write it."""
    extensions = b""
    if backing_format is not None:
        word = backing_format.ljust(-(-len(backing_format) // 8) * 8, b"\0")
        extensions = struct.pack(">II", 0xE2792ACA, len(backing_format)) + word
    extensions += struct.pack(">II", 0, 0)
    length = 104 if version == 3 else 72
    at = length + len(extensions) if backing else 0
    fields = struct.pack(">4sIQIIQ", b"QFI\xfb", version, at, len(backing), 16, 1024**2)
    fields = fields.ljust(100, b"\0") + struct.pack(">I", 104) if version == 3 else fields.ljust(72, b"\0")
    return fields + extensions + backing


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "qcow2"),
        (b"QFI\xfb", "qcow2"),
        (b"\0" * 1024, "qcow2"),
        (b"KDMV".ljust(1024), "qcow2"),
        (header().ljust(1024), "raw"),
        (b"KDMV".ljust(1024), "raw"),
        (b"vhdxfile".ljust(1024), "raw"),
        (header(backing=b"below.img"), "qcow2"),
        (header(version=2, backing=b"below.img"), "qcow2"),
        (header(backing=b"below.img", backing_format=b"vmdk"), "qcow2"),
        (header(backing=b"image", backing_format=b"qcow2"), "qcow2"),
        (header(backing=b"nbd://host/x", backing_format=b"raw"), "qcow2"),
        (header(backing=b"json:{}", backing_format=b"raw"), "qcow2"),
    ],
)
def test_an_image_that_is_not_what_its_format_says_is_refused(template_factory, tmp_path, content, said):
    (tmp_path / "below.img").write_bytes(bytes(1024))
    path = tmp_path / "image"
    path.write_bytes(content)
    with pytest.raises(ImageFormatError) as caught:
        template_factory("web", base="bare", image=path, format=said)
    assert caught.value.path.startswith(str(tmp_path))


def test_a_missing_image_further_down_is_named(template_factory, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(header(backing=b"gone.img", backing_format=b"raw"))
    with pytest.raises(SpecError) as caught:
        template_factory("web", base="bare", image=path, format="qcow2")
    assert "gone.img" in caught.value.brief


def test_the_users_image_stays_as_it_is_whatever_is_written(
    vm_factory, disk_factory, template_factory, image
):
    before = digest(image)
    web = template_factory("web", base="bare", image=image, format="qcow2")
    assert web.files == (image,)
    disk = disk_factory(template="web")
    subprocess.run(["qemu-io", "-c", "read -P 7 1M 64k", disk.path], check=True, capture_output=True)
    subprocess.run(["qemu-io", "-c", "write -P 9 1M 64k", disk.path], check=True, capture_output=True)
    vm_factory(template="web").attach(disk)
    assert digest(image) == before


def test_an_image_that_was_modified_is_named(template_factory, image):
    web = template_factory("web", base="bare", image=image, format="qcow2")
    was = image.stat()
    with image.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    os.utime(image, ns=(was.st_atime_ns, was.st_mtime_ns))
    with pytest.raises(TemplateModified) as caught:
        web.delete()
    assert caught.value.paths == (str(image),)


def test_an_image_that_was_only_touched_is_the_same(template_factory, image):
    web = template_factory("web", base="bare", image=image, format="qcow2")
    os.utime(image)
    web.delete()


def test_a_large_image_is_judged_by_its_contents_too(template_factory, tmp_path):
    path = tmp_path / "large.img"
    with path.open("wb") as file:
        file.truncate(65 * 1024**2)
    template_factory("same", base="bare", image=path, format="raw").delete()
    web = template_factory("web", base="bare", image=path, format="raw")
    os.utime(path)
    web.verify()
    with path.open("r+b") as file:
        file.write(b"!")
    with pytest.raises(TemplateModified):
        web.delete()


def test_an_image_that_has_gone_is_named(template_factory, image):
    web = template_factory("web", base="bare", image=image, format="qcow2")
    image.unlink()
    with pytest.raises(TemplateModified):
        web.delete()


def test_a_disk_has_the_templates_size_or_more(disk_factory, template_factory, image):
    template_factory("web", base="bare", image=image, format="qcow2")
    template_factory("plain", base="bare")
    assert disk_factory(template="web").size == 8 * 1024**2
    assert disk_factory("1G", template="web").size == 1024**3
    wrong = [{"size": "1M", "template": "web"}, {"template": "web", "format": "raw"}, {"template": "plain"}]
    for keywords in wrong:
        with pytest.raises(SpecError):
            disk_factory(**keywords)
    with pytest.raises(TemplateNotFound):
        disk_factory(template="wep")


def test_a_function_may_set_up_what_has_no_guest(vm_factory, template_factory):
    seen = []
    template_factory("web", base="bare", setup=lambda vm: seen.append(vm.name))
    vm = vm_factory("one", template="web")
    vm.restart()
    vm.reset()
    assert seen == ["one", "one", "one"]


def test_a_setup_that_fails_ends_the_vm_and_is_the_error(vm_factory, template_factory, image):
    def fail(vm):
        raise LookupError(vm.name)

    template_factory("web", base="bare", setup=fail)
    vm = vm_factory("one", template="web", start=False)
    with pytest.raises(LookupError):
        vm.start()
    assert vm.state == "stopped"
    with pytest.raises(LookupError):
        template_factory("prepared", base="bare", image=image, format="qcow2", setup=fail)
    template_factory("prepared", base="bare", image=image, format="qcow2")


@pytest.mark.parametrize("depth", [1, 2, 12])
def test_deep_chains_hold(template_factory, disk_factory, image, tmp_path, qemu_img, depth):
    start = template_factory("t0", base="bare", image=image, format="qcow2")
    for level in range(depth):
        disk = disk_factory(template=start)
        write = f"write -P {level + 1} {level * 64}k 64k"
        subprocess.run(["qemu-io", "-c", write, disk.path], check=True, capture_output=True)
        overlay = tmp_path / f"level{level}.qcow2"
        disk.path.rename(overlay)
        disk.delete()
        start = template_factory(f"t{level + 1}", base="bare", image=overlay, format="qcow2")
    top = disk_factory(template=start)
    assert len(start.files) == depth + 1
    assert "No errors" in qemu_img("check", top.path)
    reads = [f"read -P {level + 1} {level * 64}k 64k" for level in range(depth)]
    for read in [*reads, "read -P 7 1M 64k"]:
        done = subprocess.run(["qemu-io", "-c", read, top.path], capture_output=True, text=True, check=True)
        assert "failed" not in done.stdout


def test_with_a_guest_a_setup_holds_after_each_boot(vm_factory, template_factory):
    template_factory("web", base="tiny", setup=["mkdir /www", "echo hello >/www/index.html"])
    vm = vm_factory(template="web")
    assert vm.read_text("/www/index.html") == "hello\n"
    vm.run("rm /www/index.html")
    vm.restart()
    assert vm.read_text("/www/index.html") == "hello\n"


def test_a_command_of_a_setup_has_as_long_as_it_is_given(vm_factory, template_factory, qemuvm, image):
    slow = {"setup": ["true", "sleep 1000"], "setup_timeout": 0.5}
    template_factory("slow", **slow)
    vm = vm_factory(template="slow", start=False)
    with pytest.raises(GuestCommandTimeout) as caught:
        vm.start()
    assert (caught.value.seconds, vm.state) == (0.5, "stopped")
    with pytest.raises(GuestCommandTimeout):
        template_factory("prepared", image=image, format="qcow2", **slow)
    assert [template.name for template in qemuvm.templates()] == ["slow"]


def test_with_a_guest_an_image_is_prepared_once(vm_factory, disk_factory, template_factory, image, qemu_img):
    before = digest(image)
    runs = []

    def install(vm):
        runs.append(vm.name)
        device = "/dev/disk/by-id/virtio-data"
        vm.run(f"mke2fs -q {device} && mount {device} /mnt && echo cargo >/mnt/cargo && umount /mnt")

    data = template_factory("data", base="tiny", image=image, format="qcow2", setup=install)
    vms = [vm_factory(template=data), vm_factory(template="data")]
    assert {vm.cold_because for vm in vms} == {"its template's image was prepared for this session"}
    for vm in vms:
        vm.run("mount -r /dev/disk/by-id/virtio-data /mnt")
        assert vm.read_text("/mnt/cargo") == "cargo\n"
    other = vm_factory(template="tiny")
    other.attach(disk_factory(template="data", serial="copy"))
    other.run("mount /dev/disk/by-id/virtio-copy /mnt && echo more >>/mnt/cargo && umount /mnt")
    assert len(runs) == 1
    assert digest(image) == before
    assert [path == image for path in data.files[:2]] == [False, True]


def test_disks_of_the_call_come_after_the_templates_own(vm_factory, template_factory, image):
    template_factory("web", base="bare", image=image, format="qcow2")
    vm = vm_factory(template="web", disks=[DiskSpec("1M")])
    assert [made.backing for made in vm.plan.images] == [str(image), None]
