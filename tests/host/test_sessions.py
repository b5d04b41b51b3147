"""Leases, and what is seen of sessions and swept after them. The sessions are made by hand."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pytest_qemuvm.host import sweep
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.lease import Lease, Origin
from pytest_qemuvm.host.process import TAG_VARIABLE
from pytest_qemuvm.host.sessions import collect, look

SLEEPER = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr("pytest_qemuvm.host.paths.sessions_root", lambda: tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def sleeper():
    started = []

    def start(tag, **more):
        started.append(subprocess.Popen(SLEEPER, env={**os.environ, TAG_VARIABLE: tag}, **more))
        deadline = Deadline.after(20)
        while not sweep.carries(started[-1].pid, tag):  # until its exec is over
            assert not deadline.expired
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def living(root):
    """Begin a session of this process, with a file in its directory."""
    leases = []

    def begin(tag="qv-test-living", **origin):
        lease = Lease(root, tag, Origin("/suite", **origin))
        lease.take()
        leases.append(lease)
        (root / tag).mkdir()
        (root / tag / "file").touch()
        return lease

    yield begin
    for lease in leases:
        lease.release()


@pytest.fixture
def dead(root):
    """Leave what a session leaves whose pytest was killed."""

    def leave(tag="qv-test-dead", record=None):
        root.mkdir(mode=0o700, exist_ok=True)
        (root / f"{tag}.lease").write_text(json.dumps({"pid": 1, "ticks": 1, "directory": "/gone"}))
        (root / tag / "vm0").mkdir(parents=True)
        (root / tag / "session.json").write_text(json.dumps({"boot": sweep.boot_id(), **(record or {})}))

    return leave


def process_of(process):
    return [process.pid, sweep.start_ticks(process.pid)]


class TestLease:
    def test_it_says_who_and_what_and_is_held_until_it_is_released(self, root, living):
        lease = living(worker="gw0")
        says = json.loads(lease.path.read_text())
        assert (says["pid"], says["ticks"]) == (os.getpid(), sweep.start_ticks(os.getpid()))
        assert (says["directory"], says["worker"], says["tag"]) == ("/suite", "gw0", "qv-test-living")
        assert sweep.seize(str(lease.path)) is None
        lease.release()
        assert not lease.path.exists()

    def test_the_last_one_takes_the_directory_of_all_sessions_with_it(self, root, living):
        first, second = Lease(root, "qv-test-1", Origin("/")), Lease(root, "qv-test-2", Origin("/"))
        first.take()
        second.take()
        first.release()
        assert root.exists()
        second.release()
        assert not root.exists()

    def test_sessions_that_come_and_go_at_once_do_not_take_the_directory_from_each_other(self, root):
        errors = []

        def come_and_go(number):
            try:
                for turn in range(50):
                    lease = Lease(root, f"qv-test-{number}-{turn}", Origin("/"))
                    lease.take()
                    lease.release()
            except Exception as error:  # noqa: BLE001  # a thread has nobody to raise it to
                errors.append(error)

        threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []

    def test_one_that_was_deleted_is_made_anew(self, root, living):
        lease = living()
        lease.path.unlink()
        lease.take()
        assert sweep.seize(str(lease.path)) is None

    def test_a_session_that_is_just_being_created_gets_its_lease_whatever_sweeps(self, root):
        """The file exists for a moment before it is locked: a sweep takes it for a dead one's then."""
        done = threading.Event()
        swept = []

        def keep_sweeping():
            while not done.is_set():
                swept.extend(sweep.collect(str(root)))

        sweeper = threading.Thread(target=keep_sweeping)
        sweeper.start()
        try:
            for turn in range(200):
                lease = Lease(root, f"qv-test-{turn}", Origin("/"))
                lease.take()
                assert lease.in_force
                lease.release()
        finally:
            done.set()
            sweeper.join()


class TestCollect:
    def test_what_the_dead_left_goes_and_the_living_are_not_touched(self, root, living, dead, sleeper):
        lease = living()
        machine, left = sleeper("qv-test-living"), sleeper("qv-test-dead")
        dead()
        (found,) = collect(root, dry_run=False)
        assert (found.tag, found.pids, found.left) == ("qv-test-dead", (left.pid,), ())
        assert left.wait(timeout=10) == -9
        assert sorted(path.name for path in root.iterdir()) == ["qv-test-living", "qv-test-living.lease"]
        assert machine.poll() is None
        assert lease.in_force

    def test_a_dry_run_finds_the_same_and_removes_nothing(self, root, dead, sleeper):
        left = sleeper("qv-test-dead")
        dead()
        (planned,) = collect(root, dry_run=True)
        assert left.poll() is None
        (done,) = collect(root, dry_run=False)
        assert planned == done
        assert not root.exists()

    def test_recorded_processes_are_known_by_identity(self, root, dead, sleeper):
        untagged, reused = sleeper("qv-test-other"), sleeper("qv-test-other")
        pid, ticks = process_of(reused)
        dead(record={"processes": [process_of(untagged), [pid, ticks - 1]]})
        (found,) = collect(root, dry_run=False)
        assert found.pids == (untagged.pid,)
        assert untagged.wait(timeout=10) == -9
        assert reused.poll() is None

    def test_after_a_power_failure_pids_mean_nothing_and_files_go(self, root, dead, sleeper):
        somebody = sleeper("qv-test-other")
        dead(record={"boot": "another boot", "processes": [process_of(somebody)]})
        (found,) = collect(root, dry_run=False)
        assert found.pids == ()
        assert somebody.poll() is None
        assert not root.exists()

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"processes": 5}', '{"boot": 1, "vms": [3]}'])
    def test_damaged_files_are_no_obstacle(self, root, dead, content):
        dead()
        (root / "qv-test-dead.lease").write_text(content)
        (root / "qv-test-dead" / "session.json").write_text(content)
        assert [found.left for found in collect(root, dry_run=False)] == [()]
        assert not root.exists()

    def test_a_directory_without_a_lease_goes_if_no_process_is_called_by_its_tag(self, root, sleeper):
        for name in ("qv-test-called", "qv-test-nobody", "something-else"):
            (root / name).mkdir(parents=True)
        sleeper("qv-test-called")
        assert [found.tag for found in collect(root, dry_run=False)] == ["qv-test-nobody"]
        assert sorted(path.name for path in root.iterdir()) == ["qv-test-called", "something-else"]

    def test_sweeps_at_once_share_the_work(self, root, dead):
        for number in range(30):
            dead(f"qv-test-{number}")
        found = []
        threads = [
            threading.Thread(target=lambda: found.extend(collect(root, dry_run=False))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not root.exists()
        # Two may both find a lease before one of them holds it; what one removes the other does not report.
        assert sorted(session.tag for session in found) == sorted({session.tag for session in found})
        assert len(found) == 30

    def test_what_resists_is_told_and_its_lease_stays_for_the_next_sweep(self, root, dead):
        if os.geteuid() != 0:
            pytest.skip("a file that cannot be deleted takes root to make")
        dead()
        stuck = root / "qv-test-dead" / "stuck"
        stuck.touch()
        made = subprocess.run(["chattr", "+i", stuck], check=False, capture_output=True)
        if made.returncode != 0:
            pytest.skip(f"no immutable file can be made here: {made.stderr.decode()}")
        try:
            (found,) = collect(root, dry_run=False)
        finally:
            subprocess.run(["chattr", "-i", stuck], check=True)
        assert found.left == (str(root / "qv-test-dead"), str(root / "qv-test-dead.lease"))
        (again,) = collect(root, dry_run=False)
        assert again.left == ()

    def test_no_directory_at_all(self, tmp_path):
        assert collect(tmp_path / "none", dry_run=False) == []
        assert look(tmp_path / "none") == []


class TestLook:
    def test_records_are_held_against_facts(self, root, living, sleeper):
        lease = living()
        directory = lease.path.with_suffix("")
        for name in ("used.qcow2", "free.qcow2"):
            (directory / name).touch()
        with (directory / "used.qcow2").open() as file:
            runs, ended = sleeper("qv-test-living", pass_fds=[file.fileno()]), sleeper("qv-test-living")
        vm = {
            "owner": "test_a.py::t",
            "test": "",
            "template": "bare",
            "memory": 1,
            "cpus": 1,
            "monitor": "/nowhere",
            "disks": [],
        }
        disk = {"size": 512, "owner": "test_a.py::t"}
        record = {
            "boot": sweep.boot_id(),
            "vms": [
                {**vm, "name": "runs", "process": process_of(runs)},
                {**vm, "name": "ended", "process": process_of(ended)},
                {**vm, "name": "stopped", "process": None},
            ],
            "disks": [
                {**disk, "name": name, "path": str(directory / f"{name}.qcow2")}
                for name in ("used", "free", "deleted")
            ],
        }
        ended.kill()
        ended.wait()
        (directory / "session.json").write_text(json.dumps(record))
        (seen,) = look(root)
        assert seen.state == "living"
        assert seen.pid == os.getpid()
        assert [(vm.name, vm.state, vm.pid) for vm in seen.vms] == [
            ("runs", "running", runs.pid),
            ("ended", "ended", None),
            ("stopped", "ended", None),
        ]
        assert [(disk.name, disk.holders) for disk in seen.disks] == [("used", ("runs",)), ("free", ())]

    def test_a_dead_session_is_shown_as_such_and_left_as_it_is(self, root, dead):
        dead()
        for _ in range(2):
            (seen,) = look(root)
            assert (seen.state, seen.directory) == ("dead", "/gone")
        assert (root / "qv-test-dead" / "vm0").exists()

    def test_a_record_of_another_boot_is_none(self, root, dead):
        dead(record={"boot": "another", "vms": [{"name": "vm0"}]})
        (seen,) = look(root)
        assert seen.vms == ()


def test_the_sweep_needs_the_standard_library_alone():
    code = (
        f"import sys; sys.path.append({str(Path(sweep.__file__).parent)!r}); import sweep; "
        "sys.exit(any(name.startswith('pytest') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
