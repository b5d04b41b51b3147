"""The warm pool in whole runs: asked for in three ways, reported, and gone with the run however that ends.

``QEMUVM_POOL_KILLS=50`` for a longer run; with ``-s`` it prints how many machines the kills hit.
"""

import contextlib
import json
import os
import random
import subprocess
import sys

import pytest

KILLS = int(os.environ.get("QEMUVM_POOL_KILLS", "1"))
ARGV = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "--qemu-real"]
CONFTEST = """
import pytest
import pytest_qemuvm.machine.pool as pool

pool.has_spare_processor = lambda pause: True  # whatever the host does else

@pytest.fixture
def filled(qemuvm):
    yield
    assert qemuvm.pool.settle(120)
"""
SUITE = """
import pytest

@pytest.mark.parametrize("number", range(4))
def test_it(number, vm, filled):
    assert vm.run("hostname").stdout == f"{vm.name}\\n"
"""


@pytest.fixture
def suite(pytester, run):
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=SUITE)
    return run


@pytest.mark.parametrize("way", ["option", "ini"])
def test_all_but_the_first_come_out_of_it(pytester, suite, remains, way):
    if way == "ini":
        pytester.makeini("[pytest]\nqemu_pool = 2\n")
    result = suite("--qemu-real", *(["--qemu-pool=2"] if way == "option" else []))
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        ["qemuvm: 4 VMs were clones (3 out of the pool), 0 booted", "qemuvm: nothing left behind by 4 tests"]
    )
    assert remains.wait_until_gone()


def test_without_it_the_report_does_not_speak_of_it(suite):
    result = suite("--qemu-real")
    result.stdout.fnmatch_lines(["qemuvm: 4 VMs were clones, 0 booted"])


def test_each_worker_has_its_own(suite, remains):
    result = suite("--qemu-real", "--qemu-pool=1", "-n2", "--dist=load")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["qemuvm: 4 VMs were clones (2 out of the pool), 0 booted"])
    assert remains.wait_until_gone()


@pytest.mark.parametrize("word", ["17", "-1", "some"])
def test_a_size_that_cannot_be_stops_the_run(suite, word):
    result = suite(f"--qemu-pool={word}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--qemu-pool*not accepted*"])


def test_in_dry_run_nothing_is_prepared(pytester, suite):
    pytester.makepyfile(
        test_it=SUITE.replace('vm.run("hostname").stdout == f"{vm.name}\\n"', "not vm.from_pool")
    )
    suite("--qemu-dry-run", "--qemu-pool=2").assert_outcomes(passed=4)


def test_failures_tell_of_it(pytester, suite):
    pytester.makepyfile(test_it=SUITE + "    assert number != 1\n")
    result = suite("--qemu-real", "--qemu-pool=1")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*how it came up*", "as a clone out of the pool"])


def test_what_is_recorded_does_not_depend_on_it(pytester, suite):
    result = suite("--qemu-real", "--qemu-pool=1", "--qemu-plan=plans.json")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["qemuvm: 4 VMs were clones*, 0 booted"])
    plans = json.loads((pytester.path / "plans.json").read_text())
    assert len(plans) == 4
    assert all(len(found) == 1 for found in plans.values())


def start(pytester):
    return subprocess.Popen(
        [*ARGV, "--qemu-pool=3"], cwd=pytester.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_whenever_it_is_killed_nothing_is_left(pytester, suite, remains):
    pytester.makepyfile(test_it=SUITE.replace(", filled", "").replace("range(4)", "range(40)"))
    hits = []
    for number in range(KILLS):
        victim = start(pytester)
        with contextlib.suppress(subprocess.TimeoutExpired):
            victim.wait(random.Random(number).uniform(1.0, 6.0))
        hits.append(len(remains.tagged()))
        victim.kill()
        victim.communicate()
        assert remains.wait_until_gone(30)
    sys.stdout.write(f"\nprocesses of the sessions when they were killed: {hits}\n")


PREPARING = """
import os, signal, threading
from pytest_qemuvm.machine import starting

load = starting.load_state
interrupted = []

def interrupting(live, state, **how):
    if threading.current_thread().name == "qemuvm-pool" and not interrupted:
        interrupted.append(True)
        os.kill(os.getpid(), signal.SIGINT)
    load(live, state, **how)

starting.load_state = interrupting
"""


def test_ctrl_c_while_one_is_prepared_leaves_nothing(pytester, suite, remains):
    pytester.makeconftest(CONFTEST + PREPARING)
    waits = SUITE.replace(", filled", "") + "    threading.Event().wait(120)\n"
    pytester.makepyfile(test_it="import threading\n" + waits)
    ended = start(pytester)
    said, _ = ended.communicate(timeout=120)
    assert ended.returncode == pytest.ExitCode.INTERRUPTED, said.decode()
    assert b"KeyboardInterrupt" in said
    assert remains.wait_until_gone()
