"""However pytest ends, no process and no file of its machines is left."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from pytest_qemuvm.host.lease import Lease, Origin
from pytest_qemuvm.host.process import TAG_VARIABLE

NEIGHBOUR = "qv-neighbour"  # conftest.py does not count it among the remains

BARE = 'import pytest\npytestmark = pytest.mark.qemuvm(template="bare")\n'
WAITS = BARE + "import time\ndef test_it(vm):\n    print('up', flush=True)\n    time.sleep(60)\n"


@pytest.fixture(autouse=True)
def neighbour(remains, monkeypatch):
    """Have another session live in the same place, and see after each test that it was not touched."""
    root = remains.directory / f"qemuvm-{os.getuid()}"
    root.mkdir(mode=0o700)
    monkeypatch.setattr("pytest_qemuvm.host.lease.runtime_root", lambda: root)
    lease = Lease(root, NEIGHBOUR, Origin("elsewhere"))
    lease.take()
    (root / NEIGHBOUR / "vm0").mkdir(parents=True)
    code = "import time; time.sleep(900)"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], env={**os.environ, TAG_VARIABLE: NEIGHBOUR}
    ) as machine:
        yield
        try:
            assert machine.poll() is None
            assert lease.in_force
            assert (root / NEIGHBOUR / "vm0").is_dir()
        finally:
            machine.kill()
            shutil.rmtree(root / NEIGHBOUR)
            lease.release()


@pytest.fixture
def start(pytester, run):  # run prepares the environment
    """Start pytest and return when its machine is up."""
    processes = []

    def start_(*args):
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pytest",
                "-s",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:asyncio",
                "--qemu-real",
                *args,
            ],
            cwd=pytester.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        for line in process.stdout:
            if line.endswith("up\n"):
                return process
        pytest.fail(f"pytest ended with {process.wait()} before its machine was up")

    yield start_
    for process in processes:
        process.stdout.close()
        process.kill()
        process.wait()


def test_ctrl_c_cleans_up_in_order(pytester, start, remains):
    pytester.makepyfile(WAITS)
    process = start()
    assert remains.processes()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in output
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert remains.files() == []


def test_ctrl_c_in_the_terminal_reaches_pytest_alone(pytester, start, remains):
    pytester.makepyfile(WAITS)
    process = start()
    # A terminal signals the whole foreground group; QEMU and the reaper must not be in it.
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert remains.wait_until_gone()


def test_ctrl_c_twice_cuts_the_end_short_and_leaves_the_rest_to_the_reaper(pytester, start, remains):
    """The second one comes while a fixture that rests on the machine takes its time to end."""
    pytester.makeconftest(
        """
import pytest

@pytest.fixture
def slow(vm):
    yield
    print("ending, still up", flush=True)
    import time
    time.sleep(60)
"""
    )
    pytester.makepyfile(WAITS.replace("(vm)", "(slow)"))
    process = start()
    process.send_signal(signal.SIGINT)
    for line in process.stdout:
        if line.endswith("ending, still up\n"):
            break
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in output
    # pytest itself lets the second one through.
    assert process.returncode in (-signal.SIGINT, pytest.ExitCode.INTERRUPTED)
    assert remains.wait_until_gone()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_a_signal_that_ends_pytest_at_once_leaves_it_to_the_reaper(pytester, start, remains, number):
    pytester.makepyfile(WAITS)
    process = start()
    process.send_signal(number)
    process.wait(timeout=60)
    assert remains.wait_until_gone()


def test_a_fork_of_the_test_that_lives_on_does_not_keep_the_reaper_waiting(pytester, start, remains):
    pytester.makepyfile(
        BARE
        + "import os, time\n"
        + "def test_it(vm):\n"
        + "    if os.fork() == 0:\n        time.sleep(30)\n        os._exit(0)\n"
        + "    print('up', flush=True)\n    time.sleep(60)\n"
    )
    process = start()
    process.kill()
    process.wait()
    assert remains.wait_until_gone()


@pytest.mark.all_plugins
@pytest.mark.parametrize("method", ["signal", "thread"])
def test_both_methods_of_pytest_timeout(pytester, run, remains, method):
    pytester.makepyfile(WAITS)
    result = run("--qemu-real", "--timeout=2", f"--timeout-method={method}")
    assert result.ret != 0
    assert "Timeout" in result.stdout.str() + result.stderr.str()
    assert remains.wait_until_gone()


def test_os_exit(pytester, run, remains):
    pytester.makepyfile(BARE + "import os\ndef test_it(vm): os._exit(3)\n")
    assert run("--qemu-real").ret == 3
    assert remains.wait_until_gone()


def test_a_crashed_xdist_worker(pytester, run, remains):
    pytester.makepyfile(BARE + "import os\ndef test_crash(vm): os._exit(3)\ndef test_good(vm): pass\n")
    run("--qemu-real", "-n", "1").assert_outcomes(passed=1, failed=1)
    assert remains.wait_until_gone()


def test_the_first_failure_with_x(pytester, run, remains):
    pytester.makepyfile(BARE + "def test_bad(vm): assert 0\ndef test_never(vm): pass\n")
    run("--qemu-real", "-x").assert_outcomes(failed=1)
    assert remains.files() == []


def test_maxfail(pytester, run, remains):
    pytester.makepyfile(
        BARE + "import pytest\n@pytest.mark.parametrize('n', range(5))\ndef test_bad(vm, n): assert 0\n"
    )
    result = run("--qemu-real", "--maxfail=2")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*stopping after 2 failures*"])
    assert remains.files() == []
    assert remains.processes() == []


@pytest.mark.parametrize("where", ["before", "after"])
def test_an_exception_in_a_fixture(pytester, run, remains, where):
    raises = "    raise RuntimeError('fixture')\n"
    pytester.makepyfile(
        BARE
        + "@pytest.fixture\ndef broken(vm):\n"
        + (raises if where == "before" else "    yield\n" + raises)
        + "def test_it(vm, broken): pass\n"
    )
    result = run("--qemu-real")
    assert result.parseoutcomes()["errors"] == 1
    result.stdout.fnmatch_lines(["*RuntimeError: fixture*"])
    assert remains.files() == []


@pytest.mark.parametrize(
    ("hook", "order", "outcome"),
    [
        ("setup", "tryfirst", {"errors": 1}),
        ("setup", "trylast", {"errors": 1}),
        ("call", "tryfirst", {"failed": 1}),
        ("teardown", "tryfirst", {"passed": 1, "errors": 1}),
        ("teardown", "trylast", {"passed": 1, "errors": 1}),
        ("makereport", "tryfirst", {}),
        ("logreport", "trylast", {}),
        ("logfinish", "trylast", {}),
    ],
)
def test_another_plugin_that_breaks_in_a_hook(pytester, run, remains, hook, order, outcome):
    """What breaks while pytest reports ends the whole run, as an INTERNALERROR of that plugin."""
    pytester.makeconftest(
        "import pytest\n"
        f"@pytest.hookimpl({order}=True)\n"
        f"def pytest_runtest_{hook}():\n    raise RuntimeError('of a hook')\n"
    )
    pytester.makepyfile(BARE + "def test_it(vm): pass\n")
    result = run("--qemu-real")
    result.stdout.fnmatch_lines(["*RuntimeError: of a hook*"])
    if outcome:
        result.assert_outcomes(**outcome)
    else:
        assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert remains.wait_until_gone()


def test_a_run_directory_deleted_under_our_feet(pytester, run, remains):
    pytester.makepyfile(
        BARE
        + "import shutil\ndef test_it(vm, qemuvm):\n    shutil.rmtree(qemuvm.root)\ndef test_next(vm): pass\n"
    )
    run("--qemu-real").assert_outcomes(passed=2)
    assert remains.wait_until_gone()


FULL = """
import pytest
from pytest_qemuvm import QemuVMError

def test_while_it_is_full(no_room, vm_factory, disk_factory, qemuvm):
    for make in (disk_factory, vm_factory):
        with pytest.raises(QemuVMError) as caught:
            make()
        assert {word!r} in str(caught.value)
    assert qemuvm.disks() == []
    assert [vm.state for vm in qemuvm.vms()] == ["stopped"]
    assert list(qemuvm.root.rglob("*.qcow2")) == []

def test_seen_as_a_user_sees_it(no_room, disk_factory):
    disk_factory()

def test_with_room_again(vm, disk_factory):
    vm.attach(disk_factory())
"""


def test_a_disk_that_is_full(pytester, run, remains):
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk to fill; the next test does it by a limit")
    pytester.makeconftest(
        """
import errno
import os
from pathlib import Path
import pytest

@pytest.fixture
def no_room(qemuvm, disk_factory):
    disk_factory(name="before").delete()
    filler = Path(os.environ["TMPDIR"], "filler")
    with pytest.raises(OSError) as full, filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert full.value.errno == errno.ENOSPC
    yield
    filler.unlink()
"""
    )
    pytester.makepyfile(BARE + FULL.format(word="No space left on device"))
    small = remains.directory / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", small], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr}")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(small))
            result = run("--qemu-real")
        result.assert_outcomes(passed=2, failed=1)
        result.stdout.fnmatch_lines(["E*QemuVMError: *No space left on device*"])
        assert remains.files() == []
        assert remains.processes() == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_files_that_may_not_grow(pytester, run, remains):
    pytester.makeconftest(
        """
import resource
import pytest

@pytest.fixture
def no_room(qemuvm, disk_factory):
    disk_factory(name="before").delete()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
"""
    )
    pytester.makepyfile(BARE + FULL.format(word="File too large"))
    result = run("--qemu-real")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["E*QemuVMError: *File too large*"])
    assert remains.files() == []
    assert remains.processes() == []


def test_a_qemu_that_was_stopped_from_outside(pytester, run, remains):
    pytester.makepyfile(
        BARE
        + """
import os, signal

def test_it(vm):
    os.kill(vm.pid, signal.SIGSTOP)

def test_after(vm):
    assert vm.state == "running"
"""
    )
    result = run("--qemu-real")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["1 finding at the end: check_error"])
    assert remains.files() == []
    assert remains.processes() == []


def test_a_qemu_that_ends_neither_by_quit_nor_by_sigterm(pytester, run, remains):
    """A real one in a wrapper that does not end with it, and has a child of its own."""
    wrapper = pytester.path / "qemu"
    real = shutil.which("qemu-system-x86_64")
    last = 'case "$*" in *fd=*) ;; *) exit $status;; esac'
    wrapper.write_text(
        f"#!/bin/sh\ntrap '' TERM\n{real} \"$@\"\nstatus=$?\n{last}\nsleep 1000 &\nwait\nwait\n"
    )
    wrapper.chmod(0o755)
    pytester.makepyfile(
        BARE
        + """
def test_it(vm):
    vm.stop()
    assert vm.stopped_by == "kill"
"""
    )
    result = run("--qemu-real", f"--qemu-binary={wrapper}", "--qemu-accel=tcg")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*orphan_process: process *", "*it runs: sleep 1000"])
    assert remains.files() == []
    assert remains.processes() == []
    assert remains.tagged() == [NEIGHBOUR]


def test_a_guest_that_panics(pytester, run, remains):
    pytester.makepyfile(
        """
import pytest
from pytest_qemuvm.errors import VMStateError

def test_seen(vm):
    with pytest.raises(VMStateError):
        vm.run("echo c > /proc/sysrq-trigger")

def test_unseen(vm):
    vm.run("(sleep 1; echo c > /proc/sysrq-trigger) > /dev/null 2>&1 &")
    vm.run("sleep 60")
"""
    )
    result = run("--qemu-real")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E*panicked*"])
    assert remains.files() == []
    assert remains.processes() == []


def test_a_test_that_kills_its_qemu_leaves_no_zombie(pytester, run, remains):
    pytester.makepyfile(
        BARE
        + """
import os, signal, psutil

def test_it(vm):
    os.kill(vm.pid, signal.SIGKILL)

def test_after():
    states = [process.status() for process in psutil.Process().children(recursive=True)]
    assert psutil.STATUS_ZOMBIE not in states
"""
    )
    run("--qemu-real").assert_outcomes(passed=2, errors=1)
    assert remains.files() == []
