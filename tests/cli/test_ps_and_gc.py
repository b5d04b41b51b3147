"""``qemuvm ps`` and ``qemuvm gc``, with sessions of real pytests and real machines."""

import json

import psutil

from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.sweep import start_ticks


def lives(pid):
    """Return whether a process runs; what the init of a container does not reap does not."""
    return start_ticks(pid) is not None


def await_end(pid):
    deadline = Deadline.after(20)
    while lives(pid):
        assert not deadline.expired


def await_stopped(pid):
    """Wait until the kernel says so: a signal is acted on when the process has its next turn."""
    deadline = Deadline.after(20)
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        assert not deadline.expired


def rows(out):
    """Return the table without its session column, which differs from run to run."""
    return [line.split(None, 5)[1:] for line in out.splitlines()]


def test_ps_lists_machines_disks_and_whose_they_are(sessions, qemuvm, tmp_path):
    process, mine, shared = sessions()
    status, out, _ = qemuvm("ps")
    assert status == 0
    first = "test_it.py::test_first"
    assert rows(out)[:5] == [
        ["KIND", "NAME", "PID", "STATE", "OWNER"],
        ["session", "-", str(process.pid), "living", str(tmp_path)],
        ["vm", "shared", str(shared), "running", f"test_it.py (started in {first})"],
        ["vm", "mine", str(mine), "running", first],
        ["vm", "other", "-", "ended", first],
    ]
    assert [" ".join(line.split()[1:]) for line in out.splitlines()[5:]] == [
        f"disk data - open in mine {first}",
        f"disk spare - available {first}",
        f"network lan - segment 10.77.0.0/24: mine 10.77.0.10 {first}",
    ]
    process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert "no session" in qemuvm("ps")[1]


def test_ps_as_json(sessions, qemuvm, tmp_path):
    process, mine, shared = sessions()
    status, out, _ = qemuvm("ps", "--json")
    assert status == 0
    (session,) = json.loads(out)["sessions"]
    assert (session["pid"], session["state"], session["worker"]) == (process.pid, "living", None)
    assert session["directory"] == str(tmp_path)
    vms = {vm["name"]: vm for vm in session["vms"]}
    assert (vms["mine"]["pid"], vms["shared"]["pid"], vms["other"]["pid"]) == (mine, shared, None)
    assert vms["shared"]["owner"] == "test_it.py"
    assert vms["shared"]["test"] == "test_it.py::test_first"
    disks = {disk["name"]: disk for disk in session["disks"]}
    assert disks["data"]["holders"] == ["mine"]
    assert disks["spare"]["holders"] == []
    assert disks["data"]["size"] == 16 * 2**20


def test_a_machine_that_was_killed_or_stopped_from_outside_is_not_shown_as_running(sessions, qemuvm):
    _, mine, shared = sessions()
    psutil.Process(mine).kill()
    psutil.Process(shared).suspend()
    await_stopped(shared)
    await_end(mine)
    (session,) = json.loads(qemuvm("ps", "--json")[1])["sessions"]
    assert {vm["name"]: vm["state"] for vm in session["vms"]} == {
        "mine": "ended",
        "shared": "suspended",
        "other": "ended",
    }


def test_gc_takes_a_dead_session_and_leaves_the_living(sessions, qemuvm):
    """Pytest and its reaper killed in the same moment: nobody is left to clean up."""
    living, *living_pids = sessions()
    dead, *dead_pids = sessions()
    everybody = [psutil.Process(dead.pid), *psutil.Process(dead.pid).children()]
    (reaper,) = (child for child in everybody[1:] if "reaper_main.py" in " ".join(child.cmdline()))
    for process in (reaper, everybody[0]):
        process.suspend()
    for process in (reaper, everybody[0]):
        process.kill()
    dead.wait()
    psutil.wait_procs([reaper], timeout=10)
    assert all(lives(pid) for pid in dead_pids)

    _, out, _ = qemuvm("ps")
    assert [row[3] for row in rows(out) if row[0] == "session"].count("dead") == 1
    status, planned, _ = qemuvm("gc", "--dry-run")
    assert status == 1
    assert all(f"would remove process {pid}" in planned for pid in dead_pids)
    assert all(lives(pid) for pid in dead_pids)
    status, done, err = qemuvm("gc")
    assert (status, err) == (0, "")
    assert done == planned.replace("would remove", "removed")
    assert not any(lives(pid) for pid in dead_pids)
    assert qemuvm("gc", "--dry-run")[0] == 0
    (session,) = json.loads(qemuvm("ps", "--json")[1])["sessions"]
    assert session["pid"] == living.pid
    assert {vm["pid"] for vm in session["vms"]} == {*living_pids, None}
    living.communicate("\n", timeout=60)
    assert living.returncode == 0


def test_the_next_session_takes_a_dead_one_away_with_its_first_machine(sessions, qemuvm):
    dead, *pids = sessions()
    processes = [psutil.Process(dead.pid), *psutil.Process(dead.pid).children()]
    for process in processes:
        process.suspend()
    for process in processes:
        process.kill() if process.pid not in pids else None
    dead.wait()
    living, *_ = sessions()
    for pid in pids:
        await_end(pid)
    living.communicate("\n", timeout=60)
    assert json.loads(qemuvm("ps", "--json")[1]) == {"sessions": []}


def test_gc_with_nothing_to_do(sessions, qemuvm):
    for arguments in (("gc",), ("gc", "--dry-run")):
        status, out, err = qemuvm(*arguments)
        assert (status, err) == (0, "")
        assert "no dead session" in out
