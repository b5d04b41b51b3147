"""Dry-run: everything but the guest is there, and what only a guest could tell is never made up."""

import shutil
import sys
from pathlib import Path

import pytest

BARE = 'import pytest\npytestmark = pytest.mark.qemuvm(template="bare")\n'
TINY = "import pytest\n"
NEEDS = '@pytest.mark.qemuvm(needs="guest")\n'


@pytest.fixture
def no_qemu(monkeypatch, tmp_path):
    """A host without QEMU and its tools: nothing is on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("no_qemu")
def test_without_qemu_machines_live_disks_exist_and_devices_come_and_go(pytester, run, remains):
    pytester.makepyfile(
        BARE
        + "from pytest_qemuvm import DiskSpec\n"
        + "def test_it(vm, disk_factory, coherence):\n"
        + "    assert (vm.state, vm.record.state) == ('running', 'running')\n"
        + "    disk = disk_factory('3M')\n"
        + "    assert disk.path.read_bytes()[:4] == b'QFI\\xfb'\n"
        + "    vm.attach(disk)\n"
        + "    assert disk.holder == vm.name\n"
        + "    assert coherence.check() == []\n"
        + "    vm.detach(disk)\n"
        + "    disk.resize('5M')\n"
        + "    with vm.hotplug(DiskSpec('1M', bus='scsi')) as device:\n"
        + "        assert device in vm.devices\n"
        + "    vm.restart()\n"
        + "    vm.stop()\n"
        + "    assert vm.stopped_by == 'quit'\n"
    )
    result = run("--qemu-dry-run")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "qemuvm: dry-run (--qemu-dry-run)",
            "qemuvm: simulates QEMU 7.2 (there is no QEMU*",
            "qemuvm: 1 test used a simulated VM",
        ]
    )
    assert remains.wait_until_gone()


def test_the_version_is_that_of_the_qemu_that_is_there(pytester, run, tmp_path):
    said = tmp_path / "qemu-new"
    said.write_text("#!/bin/sh\necho 'QEMU emulator version 9.2.1 (made up)'\n")
    said.chmod(0o755)
    pytester.makepyfile(
        BARE
        + "def test_it(vm):\n"
        + "    assert vm.qmp.execute('query-version')['qemu']['major'] == 10\n"
        + f"    assert vm.argv[0] == {str(said)!r}\n"
    )
    result = run("--qemu-dry-run", f"--qemu-binary={said}")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["qemuvm: simulates QEMU 10.0 (of those recorded the nearest to *9.2.1*"])


def test_what_a_binary_cannot_say_is_said_and_the_oldest_is_simulated(pytester, run, tmp_path):
    pytester.makepyfile(BARE + "def test_it(vm): pass\n")
    result = run("--qemu-dry-run", f"--qemu-binary={tmp_path / 'missing'}")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["qemuvm: simulates QEMU 7.2 (there is no *missing*"])


ASKS = {
    "command": "vm.run('true')",
    "file": "vm.read_text('/etc/hostname')",
    "wait": "vm.wait_for_port(80)",
    "console": "vm.console.expect('login')",
    "text": "vm.console.text",
    "screen": "vm.screenshot('screen.png')",
    "snapshot": "vm.snapshot('before')",
    "clone": "vm.clone()",
    "memory dump": "vm.qmp.execute('pmemsave', {'val': 0, 'size': 64, 'filename': str(vm.run_dir / 'dump')})",
    "migration": "vm.qmp.execute('migrate', {'uri': f'file:{vm.run_dir}/state'}, allow_dangerous=True)",
}


def test_what_only_a_guest_could_tell_fails_a_test_unless_it_said_so(pytester, run):
    words = {ask: ask.replace(" ", "_") for ask in ASKS}
    tests = "".join(
        f"def test_unmarked_{word}(vm):\n    {ASKS[ask]}\n"
        f"{NEEDS}def test_marked_{word}(vm):\n    {ASKS[ask]}\n"
        for ask, word in words.items()
    )
    pytester.makepyfile(test_it=TINY + tests)
    result = run("--qemu-dry-run", "-rsf")
    result.assert_outcomes(failed=len(ASKS), skipped=len(ASKS))
    result.stdout.fnmatch_lines_random(
        [f"FAILED test_it.py::test_unmarked_{word} - NotSupportedInDryRun:*" for word in words.values()]
    )
    result.stdout.fnmatch_lines(["SKIPPED * test_it.py:4: dry-run: *"])


def test_a_test_that_needs_a_guest_is_run_as_far_as_it_goes_without(pytester, run):
    pytester.makepyfile(
        TINY
        + "from pytest_qemuvm import DiskSpec\n"
        + f"{NEEDS}def test_wrong_before(vm):\n    vm.hotplug(DiskSpec('1M', properties={{'no-such': 1}}))\n"
        + f"{NEEDS}def test_asks_nothing(vm):\n    vm.hotplug(DiskSpec('1M'))\n"
        + f"{NEEDS}def test_asks(vm):\n    vm.run('true')\n    assert False\n"
        + "@pytest.mark.qemuvm(needs='real')\ndef test_real(vm):\n    assert False\n"
    )
    result = run("--qemu-dry-run", "-rs")
    result.assert_outcomes(failed=1, skipped=3)
    result.stdout.fnmatch_lines(["*SpecError*no-such*"])
    result.stdout.fnmatch_lines_random(
        ["SKIPPED *: needs guest: *without a guest was right*", "SKIPPED *: needs real: this is a dry-run*"]
    )


def test_fixtures_may_need_a_guest_at_both_ends(pytester, run):
    pytester.makepyfile(
        TINY
        + "@pytest.fixture\ndef server(vm):\n    vm.run('start')\n"
        + "@pytest.fixture\ndef mounted(vm):\n    yield\n    vm.run('umount /mnt')\n"
        + "@pytest.fixture(scope='module')\n"
        + "def wide(module_vm_factory):\n    module_vm_factory().run('true')\n"
        + "".join(
            f"{NEEDS}def test_{name}_marked({name}): pass\ndef test_{name}_unmarked({name}): pass\n"
            for name in ("server", "wide")
        )
        + f"{NEEDS}def test_mounted_marked(mounted): pass\n"
        + "def test_mounted_unmarked(mounted): pass\n"
    )
    run("--qemu-dry-run").assert_outcomes(errors=3, skipped=4, passed=1)


def test_strict_fails_what_a_dry_run_skips(pytester, run):
    pytester.makepyfile(TINY + f"{NEEDS}def test_it(vm): vm.run('true')\n{NEEDS}def test_other(vm): pass\n")
    result = run("--qemu-dry-run", "--qemu-strict")
    result.assert_outcomes(failed=2)
    result.stdout.no_fnmatch_line("*During handling*")


def test_a_machine_with_a_guest_starts_stops_and_lets_devices_go_by_the_model_of_one(pytester, run):
    pytester.makepyfile(
        TINY
        + "from pytest_qemuvm import DiskSpec\n"
        + "def test_it(vm, disk_factory, coherence):\n"
        + "    assert vm.state == 'running'\n"
        + "    disk = disk_factory('4M')\n"
        + "    vm.attach(disk)\n"
        + "    disk.resize('8M')\n"
        + "    vm.detach(disk)\n"
        + "    assert coherence.check() == []\n"
        + "    vm.reset()\n"
        + "    vm.stop()\n"
        + "    assert vm.stopped_by == 'powerdown'\n"
        + "    vm.start()\n"
    )
    run("--qemu-dry-run").assert_outcomes(passed=1)


def test_the_simulator_is_a_process_like_qemu_in_a_sandbox_of_its_own_words(pytester, run, remains):
    pytester.makepyfile(
        BARE
        + "import os, psutil, signal\n"
        + "from pytest_qemuvm.errors import QmpDisconnected\n"
        + "@pytest.mark.qemuvm_expect('vm_state_mismatch')\n"
        + "def test_it(vm, qemuvm):\n"
        + "    process = psutil.Process(vm.pid)\n"
        + "    assert vm.identity == (process.pid, process.create_time())\n"
        + "    words = process.cmdline()\n"
        + "    assert tuple(words[-len(vm.argv) + 1:]) == vm.argv[1:]\n"
        + "    assert f'guest={vm.name}@{qemuvm.tag}' in words and '-sandbox' in words\n"
        + "    assert process.environ()['QEMUVM_SESSION'] == qemuvm.tag\n"
        + "    os.kill(vm.pid, signal.SIGKILL)\n"
        + "    with pytest.raises(QmpDisconnected) as caught:\n"
        + "        vm.qmp.wait_event('NEVER')\n"
        + "    assert caught.value.status == -9\n"
        + "    assert (vm.state, vm.record.state) == ('stopped', 'running')\n"
    )
    run("--qemu-dry-run").assert_outcomes(passed=1)
    assert remains.wait_until_gone()


def test_machines_of_a_killed_pytest_are_reaped(pytester, run, remains):
    pytester.makepyfile(BARE + "import os\ndef test_it(vm): os.kill(os.getpid(), 9)\n")
    run("--qemu-dry-run")
    assert remains.wait_until_gone()


def test_what_qemu_would_refuse_is_refused(pytester, run):
    pytester.makepyfile(
        BARE
        + "from pytest_qemuvm.errors import LaunchError, InvalidArguments, SpecError, UnknownCommand\n"
        + "from pytest_qemuvm import DriverSpec\n"
        + "@pytest.mark.parametrize('args', [('-machine', 'q53'), ('-device', 'no-such'), ('-no-such',)])\n"
        + "def test_launch(vm_factory, args):\n"
        + "    with pytest.raises(LaunchError) as caught:\n"
        + "        vm_factory(args=args)\n"
        + "    assert caught.value.status == 1\n"
        + "    assert args[-1].lstrip('-').replace('q53', 'unsupported machine') in caught.value.log\n"
        + "def test_names(vm, vm_factory):\n"
        + "    with pytest.raises(SpecError) as caught:\n        vm.hotplug(DriverSpec('virtio-rgn-pci'))\n"
        + "    assert 'virtio-rng-pci' in caught.value.hint\n"
        + "    with pytest.raises(LaunchError) as caught:\n        vm_factory(args=('-device', 'edv'))\n"
        + "    assert \"'edu'\" in caught.value.hint\n"
        + "def test_qmp(vm):\n"
        + "    with pytest.raises(UnknownCommand):\n        vm.qmp.execute('query-statsu')\n"
        + "    with pytest.raises(InvalidArguments):\n        vm.qmp.execute('qom-list', {'paht': '/'})\n"
    )
    run("--qemu-dry-run").assert_outcomes(passed=5)


def damaged(tmp_path, damage):
    """Return a directory to import a damaged copy of the package from."""
    import pytest_qemuvm

    source = Path(pytest_qemuvm.__file__).parent
    copy = tmp_path / "site" / "pytest_qemuvm"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    damage(copy / "sim" / "data")
    return copy.parent


def test_what_could_never_boot_is_an_error_in_both_modes(pytester, run):
    pytester.makepyfile(
        TINY
        + "from pytest_qemuvm.errors import GuestUnavailable, SpecError\n"
        + "def test_it(vm_factory):\n"
        + "    with pytest.raises(GuestUnavailable):\n        vm_factory(kernel=__file__)\n"
        + "    with pytest.raises(SpecError):\n        vm_factory(memory='32M')\n"
    )
    for mode in ("--qemu-real", "--qemu-dry-run"):
        run(mode).assert_outcomes(passed=1)


def emptied(data):
    shutil.rmtree(data)


def garbled(data):
    for path in data.rglob("*"):
        if path.is_file():
            path.write_bytes(b"\x00no schema" * 100)


def test_records_that_are_missing_stop_a_dry_run_before_collection(pytester, run, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(damaged(tmp_path, emptied)))
    pytester.makepyfile("raise SystemError('collected')")
    result = run("--qemu-dry-run")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: the simulator has no records*", "hint: *install*again*"])


def test_records_that_are_damaged_are_a_typed_error_of_what_needs_them(pytester, run, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(damaged(tmp_path, garbled)))
    pytester.makepyfile(
        BARE
        + "from pytest_qemuvm.errors import QemuVMError\n"
        + "def test_it(vm_factory):\n"
        + "    with pytest.raises(QemuVMError):\n"
        + "        vm_factory().qmp.execute('query-statsu')\n"
    )
    run("--qemu-dry-run").assert_outcomes(passed=1)


def test_workers_of_xdist_simulate_what_the_controller_decided(pytester, run):
    pytester.makepyfile(
        BARE
        + "@pytest.mark.parametrize('n', range(4))\n"
        + "def test_it(vm, qemuvm, n):\n    assert qemuvm.mode == 'dry-run'\n"
    )
    result = run("-n", "2", "--qemu-dry-run")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["qemuvm: 4 tests used a simulated VM"])


def test_the_interpreter_that_runs_pytest_runs_the_simulator(pytester, run):
    pytester.makepyfile(
        BARE
        + "import psutil\ndef test_it(vm):\n"
        + f"    assert psutil.Process(vm.pid).cmdline()[0] == {sys.executable!r}\n"
    )
    run("--qemu-dry-run").assert_outcomes(passed=1)


def test_other_processes_find_a_simulated_machine_by_its_name(pytester, run):
    pytester.makepyfile(
        BARE
        + "import json, subprocess, sys\n"
        + "def qemuvm(*words):\n"
        + "    argv = [sys.executable, '-m', 'pytest_qemuvm', *words]\n"
        + "    return json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)\n"
        + "def test_it(vm_factory):\n"
        + "    vm = vm_factory('web')\n"
        + "    assert qemuvm('qmp', 'web', 'query-status')['status'] == 'running'\n"
        + "    (session,) = qemuvm('ps', '--json')['sessions']\n"
        + "    assert (session['mode'], session['vms'][0]['name']) == ('dry-run', 'web')\n"
    )
    run("--qemu-dry-run").assert_outcomes(passed=1)


FAILING = """
import pytest
from pytest_qemuvm import DiskSpec
from pytest_qemuvm.errors import NotSupportedInDryRun

FAILING_DISKS = [DiskSpec("1M", on_error="stop"), DiskSpec("1M", bus="usb", on_error="report")]

@pytest.mark.qemuvm(template="bare", disks=FAILING_DISKS)
def test_faults(vm, coherence):
    assert "werror" in " ".join(vm.argv)
    for fault in (vm.faults.disk_error, vm.faults.read_only_disk, vm.faults.hung_disk):
        with pytest.raises(NotSupportedInDryRun):
            fault(0)
    with pytest.raises(NotSupportedInDryRun):
        vm.faults.slow_disk(0, iops=5)
    assert vm.faults.active == ()
    assert coherence.check() == []

@pytest.mark.qemuvm(template="bare", disks=[DiskSpec("1M", volatile_cache=True)])
def test_cuts(vm_factory):
    with pytest.raises(NotSupportedInDryRun):
        vm_factory()
"""


def test_disks_do_not_seem_to_fail(pytester, run, remains):
    pytester.makepyfile(FAILING)
    run("--qemu-dry-run").assert_outcomes(passed=2)
    assert remains.wait_until_gone()
