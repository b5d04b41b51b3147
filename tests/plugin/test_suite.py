"""``qemuvm.yaml`` and templates, as a suite that uses the plugin sees them."""

import pytest

YAML = """
templates:
  small: {base: bare, memory: 64M}
  data: {base: small, image: images/data.img, format: raw}
vms:
  db: {template: data, cpus: 2, disks: [{size: 1M, serial: more}]}
disks:
  copy: {template: data, serial: copy}
  plain: {size: 2M, format: raw}
"""

USES = """
import pytest

def test_a_vm_starts_from_what_the_file_says(vm_factory, qemuvm):
    vm = vm_factory("db")
    assert (vm.spec.template, vm.spec.bytes >> 20, vm.spec.cpus, len(vm.plan.images)) == ("data", 64, 2, 2)
    assert qemuvm.template("small").users == ("data",)
    vm.delete()
    assert vm_factory("db", cpus=3, start=False).spec.cpus == 3

def test_any_other_name_is_a_plain_vm(vm_factory):
    assert vm_factory("other", template="small", start=False).spec.cpus == 1

@pytest.mark.qemuvm(template="small")
def test_a_mark_may_name_a_template(vm):
    assert vm.spec.bytes >> 20 == 64

def test_disks(disk_factory):
    copy, plain = disk_factory(name="copy"), disk_factory(name="plain")
    assert (copy.serial, copy.size, plain.size, plain.record.format) == ("copy", 1024**2, 2 * 1024**2, "raw")
    plain.delete()
    assert disk_factory("4M", name="plain").size == 4 * 1024**2
"""


@pytest.fixture
def image(pytester):
    path = pytester.mkdir("images") / "data.img"
    path.write_bytes(bytes(1024**2))
    return path


def test_a_suite_uses_what_its_file_names(pytester, run, image, remains):
    (pytester.path / "qemuvm.yaml").write_text(YAML)
    pytester.makepyfile(USES)
    run("--qemu-real").assert_outcomes(passed=4)
    assert remains.files() == []
    run("--qemu-real", "-n2").assert_outcomes(passed=4)


def test_file_and_marker_name_devices_and_their_properties(pytester, run):
    (pytester.path / "qemuvm.yaml").write_text(
        """
vms:
  db:
    template: bare
    disks: [{size: 1M, properties: {physical_block_size: 4096}}]
    devices: [{driver: usb-tablet, bus: usb}]
"""
    )
    pytester.makepyfile(
        """
import pytest
from pytest_qemuvm import DriverSpec
from pytest_qemuvm.errors import LaunchError

def got(vm, device, key):
    return vm.qmp.execute("qom-get", {"path": f"/machine/peripheral/{device}", "property": key})

def test_the_file(vm_factory):
    vm = vm_factory("db")
    assert got(vm, "disk0", "physical_block_size") == 4096
    assert got(vm, "driver0", "type") == "usb-tablet"

@pytest.mark.qemuvm(template="bare", devices=[DriverSpec("edu", {"dma_mask": 255})])
def test_the_marker(vm):
    assert got(vm, "driver0", "dma_mask") == 255

@pytest.mark.qemuvm(template="bare", deviecs=[])
def test_a_misspelt_key(vm):
    pass

@pytest.mark.qemuvm(template="bare", devices=["edu"])
def test_what_is_no_device(vm):
    pass
"""
    )
    result = run("--qemu-real")
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines_random(["*did you mean 'devices'?*", "*'edu' is not a DriverSpec*"])


@pytest.mark.parametrize("way", ["option", "variable", "ini", "elsewhere"])
def test_the_file_may_be_anywhere(pytester, run, image, monkeypatch, way):
    path = pytester.path / "machines.yaml"
    path.write_text(YAML)
    pytester.makepyfile(USES)
    options = ["--qemu-real"]
    if way == "option":
        options.append("--qemu-config=machines.yaml")
    elif way == "variable":
        monkeypatch.setenv("QEMUVM_CONFIG", str(path))
    elif way == "ini":
        pytester.makeini("[pytest]\nqemu_config = machines.yaml\n")
    else:
        pytester.makeini("[pytest]\nqemu_config = machines.yaml\n")
        monkeypatch.chdir(image.parent)
        options += ["--rootdir", str(pytester.path), "-c", "../tox.ini", ".."]
    run(*options).assert_outcomes(passed=4)


def test_what_is_wrong_in_it_stops_the_session_before_collection(pytester, run):
    (pytester.path / "qemuvm.yaml").write_text("vms:\n  db:\n    memroy: 1G\n")
    pytester.makepyfile("raise RuntimeError('collected')")
    result = run("--qemu-dry-run")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *qemuvm.yaml:3: 'memroy' is not a key of a VM", "*'memory'*"])
    assert "collected" not in result.stdout.str()
    result = run("--qemu-dry-run", "--qemu-config=missing.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *missing.yaml cannot be read*"])


def test_yaml_is_imported_only_for_a_file(pytester, run):
    pytester.makepyfile("import sys\ndef test_it(): assert 'yaml' not in sys.modules\n")
    run("--qemu-dry-run").assert_outcomes(passed=1)


@pytest.mark.parametrize("mode", ["--qemu-real", "--qemu-dry-run"])
def test_what_the_file_names_is_made_in_both_modes(pytester, run, image, mode):
    (pytester.path / "qemuvm.yaml").write_text(YAML)
    pytester.makepyfile(
        "def test_planned(vm_factory):\n    vm = vm_factory('db', start=False)\n"
        "    assert vm.spec.bytes >> 20 == 64 and len(vm.plan.images) == 2\n"
        "def test_started(vm_factory): assert vm_factory('db').state == 'running'\n"
        "def test_disk(disk_factory): assert disk_factory(name='copy').path.is_file()\n"
    )
    run(mode).assert_outcomes(passed=3)


def test_a_modified_image_is_named_when_the_session_ends(pytester, run, image):
    (pytester.path / "qemuvm.yaml").write_text(YAML)
    pytester.makepyfile(
        "def test_it(vm_factory):\n    vm_factory('db').delete()\n"
        f"    open({str(image)!r}, 'r+b').write(b'scribble')\n"
    )
    result = run("--qemu-real")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*TemplateModified: the image of template 'data' was modified*", f"*{image}*"]
    )


def test_a_modified_image_is_named_at_the_test_that_made_the_template(pytester, run, image):
    pytester.makepyfile(
        f"""
IMAGE = {str(image)!r}

def test_bad(template_factory, vm_factory):
    template_factory("web", base="bare", image=IMAGE, format="raw")
    vm_factory(template="web")
    open(IMAGE, "r+b").write(b"scribble")

def test_good(vm_factory, template_factory):
    template_factory("web", base="bare", image=IMAGE, format="raw")
    vm_factory(template="web")
"""
    )
    result = run("--qemu-real")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_bad*"])


def test_templates_go_after_what_rests_on_them_in_whatever_order_they_are_asked_for(pytester, run, remains):
    pytester.makepyfile(
        """
import pytest

def make(templates, vms):
    template = templates("web", base="bare", memory="64M")
    child = templates("child", base=template)
    return vms(template=child)

def test_vms_first(vm_factory, template_factory):
    make(template_factory, vm_factory)

def test_templates_first(template_factory, vm_factory):
    make(template_factory, vm_factory)

def test_all_are_gone(qemuvm):
    assert qemuvm.templates() == qemuvm.vms() == []

@pytest.fixture(scope="session")
def shared(session_vm_factory, session_template_factory):
    return make(session_template_factory, session_vm_factory)

def test_session(shared, qemuvm):
    assert [template.name for template in qemuvm.templates()] == ["web", "child"]
"""
    )
    run("--qemu-real").assert_outcomes(passed=4)
    assert remains.files() == []


def test_a_template_that_a_wider_vm_rests_on_is_an_error_of_the_test_that_made_it(pytester, run):
    pytester.makepyfile(
        """
def test_it(session_vm_factory, template_factory):
    template_factory("web", base="bare")
    session_vm_factory("wide", template="web")
"""
    )
    result = run("--qemu-real")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*TemplateInUse*"])
