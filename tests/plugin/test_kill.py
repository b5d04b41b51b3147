"""Pytest killed at random moments, beside a session that lives on: it leaves nothing and touches nothing.

``QEMUVM_KILLS=100`` for a longer run; with ``-s`` it prints the moments, and how long it took until all was
gone.
"""

import contextlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.sweep import start_ticks

KILLS = int(os.environ.get("QEMUVM_KILLS", "3"))
LONGEST = 30.0
"""Seconds after which it counts as left behind; how long it takes is printed, not judged, on a busy host."""

QUIETLY = ("-p", "no:cacheprovider", "-p", "no:asyncio", "--qemu-real", "-q")

CONFTEST = """
import pytest

def phase(name):
    with open("phase", "a") as file:
        file.write(f"{name}\\n")

phase("starting")

def pytest_collection():
    phase("collecting")

def pytest_runtestloop():
    phase("before the first VM")

@pytest.fixture
def told():
    yield phase
    phase("torn down")

@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown():
    phase("tearing down")
    return (yield)

def pytest_sessionfinish():
    phase("finishing")
"""
VICTIM = """
import pytest
from pytest_qemuvm import DiskSpec

@pytest.mark.parametrize("turn", range(12))
def test_it(turn, told, vm_factory, disk_factory):
    told("preparing")
    data = disk_factory("16M")
    vm = vm_factory(template="bare", start=False, disks=(DiskSpec(size="16M"),))
    told("launching")
    vm.start()
    told("running")
    vm.attach(data)
    for _ in range(50):
        vm.qmp.execute("query-status")
    told("unplugging")
    vm.detach(data)
    told("running")
"""
BESIDE = """
import sys
import pytest

def test_it(vm_factory, disk_factory):
    vm = vm_factory(template="bare")
    data = disk_factory("16M")
    vm.attach(data)
    print("up", flush=True)
    sys.stdin.readline()
    assert vm.state == "running"
    assert (data.state, data.holder) == ("attached", vm.name)
    vm.detach(data)
    print("well", flush=True)
"""


class Place:
    """All that runs and lies below one temporary directory, sockets, locks and leases among it."""

    def __init__(self, directory):
        self._directory = Path(directory)
        self._mark = f"TMPDIR={directory}".encode()

    def machines(self):
        """What is ours: processes that carry a session's tag, and files; xdist's workers are its own."""
        return {one for one in self.processes() if self._carries(one[0], b"QEMUVM_SESSION=qv-")}, self.files()

    def processes(self):
        pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
        return {
            (pid, start_ticks(pid)) for pid in pids if pid != os.getpid() and self._carries(pid, self._mark)
        }

    def _carries(self, pid, start):
        try:
            return any(
                word.startswith(start) for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            )
        except OSError:
            return False

    def files(self):
        # os.walk does not mind what vanishes meanwhile.
        return {
            Path(parent, name)
            for parent, directories, files in os.walk(self._directory)
            for name in directories + files
        }

    def links(self):
        return set(Path("/sys/class/net").iterdir())

    def all(self):
        return self.processes(), self.files(), self.links()


@pytest.fixture
def start(pytester, run, remains):  # run prepares the environment
    processes = []

    def start_(name, *options):
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *QUIETLY, *options, f"{name}.py"],
            cwd=pytester.path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield start_
    for process in processes:
        process.kill()
        process.communicate()


def seconds_until(condition, since, beside):
    """Return how long it has taken until it holds, or None if that is too long."""
    while not condition():
        if time.monotonic() - since > LONGEST:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            pytest.fail(f"the session beside it ended with {beside.wait(0.02)}")
    return time.monotonic() - since


def killed_at(victim, phases, line, delay):
    """Kill a run once it has told of so many phases, and a moment later; return in which that was."""
    until = Deadline.after(120)
    while len(phases.read_text().splitlines()) < line and victim.poll() is None:
        assert not until.expired
        with contextlib.suppress(subprocess.TimeoutExpired):
            victim.wait(0.005)
    try:
        victim.wait(delay)
    except subprocess.TimeoutExpired:
        victim.kill()
        return phases.read_text().splitlines()[-1]
    return "(had ended)"


def test_whenever_pytest_is_killed_nothing_is_left_and_others_live_on(pytester, start, remains):
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(victim=VICTIM, beside=BESIDE)
    phases = pytester.path / "phase"

    beside = start("beside", "-s", "-p", "no:xdist")
    for line in beside.stdout:
        if line == "up\n":
            break
    place = Place(remains.directory)
    before, machines = place.all(), place.machines()
    assert len(before[0]) == 3  # its pytest, its QEMU, its reaper

    known = {}
    for options in ((), ("-n", "2")):
        phases.unlink()
        whole = start("victim", *options)
        said, _ = whole.communicate(timeout=120)
        assert whole.returncode == 0, said
        known[options] = len(phases.read_text().splitlines())
        assert place.all() == before

    table = {}
    for number in range(KILLS):
        options = () if number % 2 else ("-n", "2")
        dice = random.Random(number)
        phases.write_text("not begun\n")
        victim = start("victim", *options)
        # Counted in what it has done, not in seconds: that is as random on a busy host as on an idle one.
        hit = killed_at(victim, phases, dice.randint(1, known[options] + 1), dice.uniform(0, 0.05))
        since = time.monotonic()
        victim.wait()
        ours = seconds_until(lambda: place.machines() == machines, since, beside)
        everything = seconds_until(lambda: place.all() == before, since, beside)
        left = [now ^ then for now, then in zip(place.all(), before, strict=True)]
        assert None not in (ours, everything), (number, options, hit, left)
        table.setdefault(("-n 2" if options else "alone", hit), []).append((ours, everything))

    said, _ = beside.communicate("\n", timeout=60)
    assert "well\n" in said
    assert beside.returncode == 0
    assert remains.wait_until_gone()
    lines = [f"\n{KILLS} kills: how often, longest until all machines, and all processes, were gone"]
    for (kind, hit), times in sorted(table.items()):
        longest = [max(column) for column in zip(*times, strict=True)]
        lines.append(f"{kind:6} {hit:20} {len(times):4} {longest[0]:6.2f} s {longest[1]:6.2f} s")
    sys.stdout.write("\n".join(lines) + "\n")
