"""Naming an image of the user's for a VM, a test, or a whole suite."""

import pytest

USES = """
import pytest

pytestmark = pytest.mark.qemuvm(template="bare")

def backing(vm):
    return [(made.backing or "").rpartition("/")[2] for made in vm.plan.images]

def test_all_vms_are_made_of_it(vm, vm_factory):
    assert (backing(vm), vm.plan.boot) == (["own.img"], "disk")
    assert backing(vm_factory(boot="none", start=False)) == ["own.img"]
    assert backing(vm_factory(image=None, start=False)) == []

@pytest.mark.qemuvm(image="images/other.img", format="raw")
def test_what_a_mark_says_lies_over_it(vm_factory):
    assert backing(vm_factory(start=False)) == ["other.img"]

def test_and_so_does_a_templates_own(template_factory, vm_factory):
    template_factory("more", base="bare", image="images/other.img", format="raw")
    template_factory("plain", base="bare")
    assert backing(vm_factory(template="more", start=False)) == ["other.img"]
    assert backing(vm_factory(template="more", image=None, start=False)) == []
    assert backing(vm_factory(template="plain", start=False)) == ["own.img"]
"""


@pytest.fixture
def images(pytester):
    directory = pytester.mkdir("images")
    for name in ("own.img", "other.img"):
        (directory / name).write_bytes(bytes(65536))
    (directory / "own.qcow2").write_bytes(b"QFI\xfb\0\0\0\3".ljust(65536, b"\0"))
    return directory


@pytest.mark.parametrize("way", ["option", "variable", "ini", "ini, elsewhere", "option, elsewhere"])
def test_a_suite_names_its_image_once(pytester, run, images, monkeypatch, way):
    pytester.makepyfile(test_it=USES)
    options = ["--qemu-real"]
    if way == "variable":
        monkeypatch.setenv("QEMUVM_IMAGE", "images/own.img")
        monkeypatch.setenv("QEMUVM_IMAGE_FORMAT", "raw")
    elif way.startswith("ini"):
        pytester.makeini("[pytest]\nqemu_image = images/own.img\nqemu_image_format = raw\n")
    elif way == "option":
        options += ["--qemu-image=images/own.img", "--qemu-image-format=raw"]
    if way.endswith("elsewhere"):
        # ini starts from the rootdir, the command line from where pytest was started.
        monkeypatch.chdir(images)
        options += ["--rootdir", str(pytester.path), str(pytester.path / "test_it.py")]
        if way.startswith("option"):
            options += ["--qemu-image=own.img", "--qemu-image-format=raw"]
        else:
            options += ["-c", "../tox.ini"]
    result = run(*options)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines([f"qemuvm: image {images / 'own.img'} (raw)"])


def test_workers_of_xdist_know_it(pytester, run, images):
    pytester.makepyfile(test_it=USES)
    options = ("--qemu-image=images/own.img", "--qemu-image-format=raw")
    run("--qemu-real", "-n2", *options).assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("image", "image_format", "says"),
    [
        ("own.img", None, "*own.img is not guessed*"),
        ("missing.img", "raw", "*no disk image at *missing.img*"),
        ("", "raw", "*there is no --qemu-image*"),
        (".", "qcow2", "*no disk image at *"),
        ("own.img", "qcow2", "*own.img is not a qcow2 image*"),
        ("own.qcow2", "raw", "*begins like a qcow2 image*"),
        ("own.img", "vmdk", "*--qemu-image-format='vmdk' is not accepted*"),
    ],
)
def test_an_image_that_cannot_be_stops_pytest_before_collection(
    pytester, run, images, image, image_format, says
):
    pytester.makepyfile("raise RuntimeError('collected')")
    options = [f"--qemu-image={images / image}"] if image else []
    if image_format:
        options.append(f"--qemu-image-format={image_format}")
    result = run("--qemu-dry-run", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {says}"])
    assert "collected" not in result.stdout.str()


def test_relative_paths_start_from_the_rootdir_whoever_names_them(pytester, run, images, monkeypatch):
    pytester.makeini("[pytest]\n")
    directory = pytester.mkdir("deep")
    (directory / "test_it.py").write_text(
        """
import pytest
from pathlib import Path

OWN = {"image": "images/own.img", "format": "raw"}

def check(request, vm):
    assert vm.spec.image == request.config.rootpath / "images/own.img"

@pytest.mark.qemuvm(template="bare", **OWN)
def test_mark(request, vm):
    check(request, vm)

class TestSpec:
    @pytest.fixture
    def vm_spec(self):
        return {"template": "bare", **OWN}

    def test_it(self, request, vm):
        check(request, vm)

    @pytest.mark.qemuvm(image=None)
    def test_without(self, vm):
        assert (vm.spec.image, vm.spec.format) == (None, None)

def test_call(request, vm_factory, template_factory):
    check(request, vm_factory(template="bare", start=False, **OWN))
    template_factory("own", base="bare", **OWN)
    check(request, vm_factory(template="own", start=False))
    absolute = {**OWN, "image": Path(request.config.rootpath, OWN["image"])}
    check(request, vm_factory(template="bare", start=False, **absolute))
"""
    )
    monkeypatch.chdir(directory)
    run("--qemu-real", "-c", "../tox.ini").assert_outcomes(passed=4)


def test_a_mark_that_makes_no_sense_is_an_error_of_its_test(pytester, run, images):
    pytester.makepyfile(
        """
import pytest

@pytest.mark.qemuvm(image="images/own.img")
def test_no_format(vm): pass

@pytest.mark.qemuvm(format="raw")
def test_no_image(vm): pass

@pytest.mark.qemuvm(image=7, format="raw")
def test_no_path(vm): pass

@pytest.mark.qemuvm(image="missing.img", format="raw")
def test_missing(vm): pass

@pytest.mark.qemuvm(image="images/own.img", format="qcow2")
def test_wrong(vm): pass

@pytest.mark.qemuvm(template="bare", image="images/own.img", format="raw")
def test_good(vm): pass
"""
    )
    run("--qemu-real").assert_outcomes(errors=5, passed=1)


def test_a_qemuvm_yaml_may_name_a_vms_image(pytester, run, images):
    (pytester.path / "qemuvm.yaml").write_text(
        "vms:\n  own: {template: bare, image: images/own.img, format: raw}\n"
        "  other: {template: bare, image: images/not-here.img, format: raw, boot: none}\n"
    )
    pytester.makepyfile(
        """
import pytest
from pytest_qemuvm.errors import SpecError

def test_it(vm_factory):
    assert vm_factory("own").plan.boot == "disk"
    with pytest.raises(SpecError):
        vm_factory("other")
"""
    )
    run("--qemu-real").assert_outcomes(passed=1)


@pytest.mark.parametrize("mode", ["--qemu-real", "--qemu-dry-run"])
def test_images_are_used_and_watched_in_both_modes(pytester, run, images, mode):
    pytester.makepyfile(
        """
import pytest
from pytest_qemuvm.errors import TemplateModified

def test_it(vm_factory, template_factory):
    own = {"image": "images/own.img", "format": "raw"}
    template = template_factory("own", base="bare", **own)
    vm = vm_factory(template="bare", start=False, **own)
    assert vm.plan.boot == "disk"
    open("images/own.img", "r+b").write(b"!")
    vm.delete()
    with pytest.raises(TemplateModified):
        template.delete()

def test_started(vm_factory):
    assert vm_factory(template="bare", image="images/own.img", format="raw", boot="none").state == "running"
"""
    )
    run(mode).assert_outcomes(passed=2)


def test_a_changed_image_is_an_error_of_the_test_that_used_it(pytester, run, images, remains):
    pytester.makepyfile(
        """
import pytest
from pytest_qemuvm import CdromSpec

OWN = {"template": "bare", "image": "images/own.img", "format": "raw"}

def change():
    open("images/own.img", "r+b").write(b"!")

def test_bad(vm_factory):
    vm_factory(**OWN)
    change()

def test_good(vm_factory):
    vm_factory(**OWN)

def test_wide(session_vm_factory):
    vm = session_vm_factory("wide", template="bare")
    vm.hotplug(CdromSpec("images/other.img"))
    open("images/other.img", "r+b").write(b"!")
"""
    )
    result = run("--qemu-real")
    result.assert_outcomes(passed=3, errors=2)
    for test, image in (("test_bad", "own.img"), ("test_wide", "other.img")):
        result.stdout.fnmatch_lines([f"*ERROR at teardown of {test} *", "*ImageModified*", f"*{image}"])
    assert remains.files() == []
