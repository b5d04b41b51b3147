"""``--qemu-plan`` and ``assert_plan``: what was started and said, in words that are the same in every run."""

import json
import shutil

import pytest

SUITE = """
import pytest
from pytest_qemuvm import DiskSpec, NicSpec
from pytest_qemuvm.errors import CommandError
pytestmark = pytest.mark.qemuvm(template="bare")

def test_plug(vm, disk_factory, tmp_path):
    with vm.hotplug(NicSpec()), vm.hotplug(DiskSpec("16M", serial=tmp_path.name[:20])):
        vm.qmp.execute("query-status")
    disk = disk_factory("3M")
    vm.attach(disk)
    vm.pause()
    vm.restart()
    with pytest.raises(CommandError):
        vm.qmp.execute("device_del", {"id": "nobody"})

def test_two(vm_factory):
    vm_factory(nics=[NicSpec(forward=22)])
    vm_factory("db", disks=[DiskSpec("1M", format="raw")])

@pytest.fixture(scope="module")
def wide(module_vm_factory):
    return module_vm_factory("wide", template="bare")

def test_wide(wide):
    wide.pause()

def test_wide_again(wide):
    wide.resume()
"""
MODES = ["--qemu-real", "--qemu-dry-run"]


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


@pytest.fixture
def planned(pytester, run):
    """Run the suite and return what it has written."""

    def run_(mode, *args, passed=4):
        run(mode, "--qemu-plan=plan.json", *args).assert_outcomes(passed=passed)
        return json.loads((pytester.path / "plan.json").read_text())

    return run_


def test_two_runs_plan_and_say_the_same(pytester, planned, mode):
    pytester.makepyfile(test_it=SUITE)
    first = planned(mode)
    pytester.makepyfile(
        test_another="import pytest\n@pytest.mark.qemuvm(template='bare')\ndef test_it(vm): pass\n"
    )
    second = planned(mode, passed=5)  # names and numbers are others now
    assert second.pop("test_another.py::test_it")
    assert first == second
    spread = planned(mode, "-n", "2", "--dist", "loadfile", passed=5)
    assert spread.pop("test_another.py::test_it")
    assert first == spread


def test_both_modes_plan_and_say_the_same(pytester, planned):
    pytester.makepyfile(test_it=SUITE)
    assert planned("--qemu-real") == planned("--qemu-dry-run")


def test_what_a_plan_shows(pytester, planned, mode):
    pytester.makepyfile(test_it=SUITE)
    plans = planned(mode)
    assert list(plans) == ["test_it.py", "test_it.py::test_plug", "test_it.py::test_two"]
    (vm,) = plans["test_it.py::test_plug"]
    assert vm["name"] == "<vm0>"
    assert vm["argv"][:3] == ["qemu-system-x86_64", "-name", "guest=<vm0>@<tag>"]
    assert vm["fds"] == ["console", "monitor", "qmp", "qtest"]
    assert [image["path"] for image in vm["images"]] == [
        "<session>/<vm0>/disk0.qcow2",
        "<session>/disks@/<disk-0>.qcow2",
    ]
    made = ["qemu-img", "create", "-q", "-f", "qcow2", "<session>/disks@/<disk-0>.qcow2", str(3 * 2**20)]
    assert vm["image_commands"][1] == made
    first, second = vm["runs"]
    assert [said["execute"] for said in first["qmp"]][:2] == ["netdev_add", "device_add"]
    assert {"by": "test", "execute": "query-status"} in first["qmp"]
    (nic,) = (said for said in first["qmp"] if said.get("arguments", {}).get("driver") == "virtio-net-pci")
    assert nic["arguments"]["mac"] == "<mac0>"
    assert [event["event"] for event in first["events"]][-2:] == ["STOP", "SHUTDOWN"]
    (refused,) = (said for said in second["qmp"] if "error" in said)
    assert refused["error"] == {"class": "DeviceNotFound", "desc": "Device 'nobody' not found"}
    nics, disks = plans["test_it.py::test_two"]
    assert (nics["name"], disks["name"]) == ("<vm0>", "db")
    assert nics["nics"][0]["mac"] == "<mac0>"
    assert disks["images"][0]["path"] == "<session>/db/disk0.raw"
    (wide,) = plans["test_it.py"]
    assert [said["execute"] for said in wide["runs"][0]["qmp"]] == ["stop", "cont", "quit"]


def test_a_vm_of_the_session_is_in_the_file_too(pytester, planned, mode):
    pytester.makepyfile(
        "def test_it(session_vm_factory):\n    session_vm_factory('long', template='bare').pause()\n"
    )
    (vm,) = planned(mode, passed=1)["session"]
    assert [said["execute"] for said in vm["runs"][0]["qmp"]] == ["stop", "quit"]


GOLDEN = """
import pytest
from pytest_qemuvm import RngSpec
from pytest_qemuvm.errors import PlanDiffers, SpecError

@pytest.mark.qemuvm(template="bare", memory="{memory}")
def test_it(vm, assert_plan):
    vm.hotplug(RngSpec())
    assert_plan("golden/it.json")
"""


def test_a_golden_file_is_written_when_asked_and_compared_else(pytester, run, mode):
    pytester.makepyfile(GOLDEN.format(memory="64M"))
    missing = run(mode)
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(["*PlanDiffers: there is no golden file *", "*--qemu-update-plans*"])
    run(mode, "--qemu-update-plans").assert_outcomes(passed=1)
    for other in MODES:
        run(other).assert_outcomes(passed=1)
    pytester.makepyfile(GOLDEN.format(memory="128M"))
    differs = run(mode)
    differs.assert_outcomes(failed=1)
    differs.stdout.fnmatch_lines(["*PlanDiffers: *", "*-*size=64M,*", "*+*size=128M,*"])


def test_only_what_is_compared_is_recorded(pytester, run):
    pytester.makepyfile(
        GOLDEN.format(memory="64M")
        + "def test_after(vm_factory, qemuvm):\n"
        + "    vm_factory(template='bare')\n    assert list(qemuvm.recordings) == []\n"
    )
    run("--qemu-dry-run", "--qemu-update-plans").assert_outcomes(passed=2)


def test_a_golden_file_of_something_else_is_a_typed_error(pytester, run):
    pytester.makepyfile(GOLDEN.format(memory="64M"))
    (pytester.path / "golden").mkdir()
    (pytester.path / "golden" / "it.json").write_text("no JSON")
    result = run("--qemu-real")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*SpecError: the golden file *cannot be read*"])


def test_printed_plans_can_be_pasted(pytester, run, mode):
    pytester.makepyfile("def test_it(vm_factory): vm_factory('web', template='bare', start=False)\n")
    result = run(mode, "--qemu-plan")
    result.stdout.fnmatch_lines(["*plan of web for *::test_it*", f"{shutil.which('qemu-system-x86_64')} *"])
    result.stdout.no_fnmatch_line("*<session>*")
