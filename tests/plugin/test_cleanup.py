"""However pytest ends, no process and no file of its machines is left."""

import os
import signal
import subprocess
import sys

import pytest

BARE = 'import pytest\npytestmark = pytest.mark.qemuvm(template="bare")\n'
WAITS = BARE + "import time\ndef test_it(vm):\n    print('up', flush=True)\n    time.sleep(60)\n"


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


def test_another_plugin_that_breaks_in_a_hook(pytester, run, remains):
    pytester.makeconftest("def pytest_runtest_teardown(item):\n    raise RuntimeError('hook')\n")
    pytester.makepyfile(BARE + "def test_it(vm): pass\n")
    run("--qemu-real")
    assert remains.wait_until_gone()


def test_a_run_directory_deleted_under_our_feet(pytester, run, remains):
    pytester.makepyfile(
        BARE
        + "import shutil\ndef test_it(vm, qemuvm):\n    shutil.rmtree(qemuvm.root)\ndef test_next(vm): pass\n"
    )
    result = run("--qemu-real")
    assert result.parseoutcomes()["passed"] >= 1
    assert remains.wait_until_gone()


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
