"""Every row of a VM's life, on a real QEMU without a guest."""

import contextlib
import os
import signal
import threading
import time

import psutil
import pytest

from pytest_qemuvm import DiskSpec, NicSpec
from pytest_qemuvm.errors import (
    AlreadyRunning,
    CapabilityError,
    LaunchError,
    NotRunning,
    QmpDisconnected,
    SpecError,
    TemplateNotFound,
    VMNotFound,
    VMStateError,
)
from pytest_qemuvm.host.images import qcow2_header


def ended(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def test_a_vm_has_the_name_it_was_given_or_a_short_one_of_its_own(vm_factory):
    assert vm_factory("web", start=False).name == "web"
    names = {vm_factory(start=False).name for _ in range(3)}
    assert len(names) == 3
    assert all(len(name) < 8 for name in names)


def test_a_duplicate_name_is_refused_and_the_first_vm_untouched(vm_factory):
    first = vm_factory("web")
    with pytest.raises(VMStateError):
        vm_factory("web")
    assert first.state == "running"


@pytest.mark.parametrize("name", ["", "1st", "a b", "a/b", "x" * 64, "new\n", "ä"])
def test_a_bad_name_is_a_value_error_before_any_file_exists(vm_factory, qemuvm, name):
    before = set(qemuvm.root.glob("*")) if qemuvm.root.exists() else set()
    with pytest.raises(ValueError, match="not a name"):
        vm_factory(name)
    assert (set(qemuvm.root.glob("*")) if qemuvm.root.exists() else set()) == before


def test_started_means_running_with_a_live_process_of_known_identity(vm_factory):
    vm = vm_factory()
    assert vm.state == "running"
    assert vm.record.state == "running"
    process = psutil.Process(vm.pid)
    assert vm.identity == (process.pid, process.create_time())
    assert vm.qmp.execute("query-status")["status"] == "running"
    assert process.environ()["QEMUVM_SESSION"] in " ".join(process.cmdline())


def test_stopped_means_the_process_is_gone_and_so_are_its_descriptors(vm_factory):
    vm = vm_factory()
    pid = vm.pid
    before = psutil.Process().num_fds()
    vm.stop()
    assert ended(pid)
    assert (vm.state, vm.record.state, vm.pid, vm.identity) == ("stopped", "stopped", None, None)
    assert psutil.Process().num_fds() < before
    with pytest.raises(NotRunning):
        vm.qmp.execute("query-status")


def test_start_twice_is_refused_and_the_process_untouched(vm_factory):
    vm = vm_factory()
    identity = vm.identity
    with pytest.raises(AlreadyRunning):
        vm.start()
    assert vm.identity == identity
    assert vm.state == "running"


@pytest.mark.parametrize("act", ["stop", "kill", "pause", "resume", "reset"])
def test_what_needs_a_running_vm_says_so(vm_factory, act):
    vm = vm_factory(start=False)
    with pytest.raises(NotRunning):
        getattr(vm, act)()
    assert vm.state == "stopped"


def test_without_a_guest_a_graceful_stop_waits_for_nobody(vm_factory):
    vm = vm_factory()
    vm.stop()
    assert vm.stopped_by == "quit"


def test_a_qemu_that_does_not_answer_is_terminated(vm_factory, monkeypatch):
    from pytest_qemuvm.machine import ladder

    monkeypatch.setitem(ladder.STEP_SECONDS, "quit", 0.2)
    vm = vm_factory()
    pid = vm.pid
    os.kill(pid, signal.SIGSTOP)
    vm.stop()
    assert vm.stopped_by == "term"
    assert ended(pid)


def test_what_ignores_even_that_is_killed(vm_factory, monkeypatch):
    from pytest_qemuvm.machine import ladder

    for step in ladder.STEP_SECONDS:
        monkeypatch.setitem(ladder.STEP_SECONDS, step, 0.0)
    vm = vm_factory()
    pid = vm.pid
    os.kill(pid, signal.SIGSTOP)
    vm.stop()
    assert vm.stopped_by in ("term", "kill")
    assert ended(pid)


def test_kill_is_a_power_cut(vm_factory):
    vm = vm_factory()
    vm.kill()
    assert (vm.stopped_by, vm.state, vm.record.state) == ("kill", "stopped", "stopped")


def test_restart_keeps_name_and_disks_and_changes_the_process(vm_factory):
    vm = vm_factory("web", disks=[DiskSpec("64M")])
    pid, (disk,) = vm.pid, vm.run_dir.glob("disk0*")
    inode = disk.stat().st_ino
    vm.restart()
    assert vm.name == "web"
    assert vm.pid != pid
    assert ended(pid)
    assert disk.stat().st_ino == inode
    assert vm.state == "running"


def test_a_stopped_vm_starts_again(vm_factory):
    vm = vm_factory()
    for _ in range(3):
        vm.stop()
        vm.start()
    assert vm.state == "running"
    assert vm.record.starts == 4


def test_a_deleted_vm_is_not_found_and_leaves_nothing(vm_factory, qemuvm):
    vm = vm_factory("gone", disks=[DiskSpec("64M")])
    pid, directory = vm.pid, vm.run_dir
    assert qemuvm.vm("gone") is vm
    assert directory.is_dir()
    vm.delete()
    assert ended(pid)
    assert not directory.exists()
    with pytest.raises(VMNotFound):
        qemuvm.vm("gone")
    vm.delete()
    assert vm_factory("gone").state == "running"


def test_states_change_exactly(vm_factory):
    vm = vm_factory(start=False)
    seen = [vm.state]
    for act in (vm.start, vm.pause, vm.resume, vm.stop):
        act()
        seen.append(vm.state)
        assert vm.record.state == vm.state
    assert seen == ["stopped", "running", "paused", "running", "stopped"]


def test_pausing_twice_and_resuming_what_runs_are_refused(vm_factory):
    vm = vm_factory()
    with pytest.raises(VMStateError):
        vm.resume()
    vm.pause()
    with pytest.raises(VMStateError):
        vm.pause()
    assert vm.state == "paused"


def test_vms_are_listed_all_or_by_state(vm_factory, qemuvm):
    running, stopped, paused = vm_factory(), vm_factory(start=False), vm_factory()
    paused.pause()
    mine = {running, stopped, paused}
    assert mine <= set(qemuvm.vms())
    for state, vm in (("running", running), ("stopped", stopped), ("paused", paused)):
        assert mine & set(qemuvm.vms(state=state)) == {vm}
    with pytest.raises(ValueError, match="no state"):
        qemuvm.vms(state="runing")


def test_an_unknown_vm_names_the_nearest(vm_factory, qemuvm):
    vm_factory("database", start=False)
    with pytest.raises(VMNotFound) as caught:
        qemuvm.vm("databse")
    assert "database" in caught.value.hint


def test_a_qemu_that_refuses_its_command_line_is_a_launch_error_at_once(vm_factory):
    started = time.monotonic()
    with pytest.raises(LaunchError) as caught:
        vm_factory("web", args=("-device", "no-such-device"))
    assert time.monotonic() - started < 5  # a hang would take GREETING_SECONDS
    error = caught.value
    assert error.status == 1
    assert "no-such-device" in error.log
    assert "-device" in error.argv
    assert "no-such-device" in str(error)


def test_a_failed_launch_leaves_neither_process_nor_descriptor(vm_factory, qemuvm):
    vm = vm_factory(start=False, args=("-no-such-option",))
    with contextlib.suppress(LaunchError):
        vm.start()
    before = psutil.Process().num_fds()
    for _ in range(3):
        with pytest.raises(LaunchError):
            vm.start()
    assert psutil.Process().num_fds() == before
    assert vm.state == "stopped"
    assert vm.record.state == "stopped"
    assert not [process for process in psutil.Process().children() if "-no-such-option" in process.cmdline()]


def test_of_two_threads_one_starts_the_vm_and_the_other_is_told(vm_factory):
    for _ in range(5):
        vm = vm_factory(start=False)
        barrier, outcomes = threading.Barrier(2), []

        def start(vm=vm, barrier=barrier, outcomes=outcomes):
            barrier.wait()
            try:
                vm.start()
            except AlreadyRunning as error:
                outcomes.append(error)
            else:
                outcomes.append("started")

        threads = [threading.Thread(target=start) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AlreadyRunning", "str"]
        assert vm.state == "running"
        vm.delete()


def test_a_process_ended_from_outside_is_seen_but_not_believed(vm_factory):
    vm = vm_factory()
    os.kill(vm.pid, signal.SIGKILL)
    with pytest.raises(QmpDisconnected) as caught:
        vm.qmp.wait_event("NEVER")
    assert caught.value.status == -signal.SIGKILL
    assert vm.state == "stopped"
    assert vm.record.state == "running"
    with pytest.raises(VMStateError):
        vm.start()
    vm.restart()
    assert (vm.state, vm.record.state) == ("running", "running")


@pytest.mark.qemuvm_expect("vm_state_mismatch")
def test_sigterm_from_outside_is_not_an_orderly_end_though_qemu_exits_with_0(vm_factory):
    vm = vm_factory()
    os.kill(vm.pid, signal.SIGTERM)
    with pytest.raises(QmpDisconnected) as caught:
        vm.qmp.wait_event("NEVER")
    assert caught.value.status == 0
    assert vm.record.state == "running"


def test_a_quit_that_the_test_sends_is_an_orderly_end(vm_factory):
    vm = vm_factory()
    vm.qmp.execute("quit")
    vm.wait_stopped()
    assert (vm.state, vm.record.state, vm.stopped_by) == ("stopped", "stopped", "quit")
    vm.start()
    assert vm.state == "running"


def test_reset_returns_when_it_has_happened(vm_factory):
    vm = vm_factory()
    pid, before = vm.pid, vm.qmp.events.last
    vm.reset()
    assert vm.pid == pid
    assert [event.name for event in vm.qmp.events.since(before)].count("RESET") == 1


def test_an_unknown_template_names_the_nearest(vm_factory):
    with pytest.raises(TemplateNotFound) as caught:
        vm_factory(template="tinny")
    assert "tiny" in caught.value.hint


def test_a_machine_without_a_guest_runs_no_commands(vm_factory):
    vm = vm_factory()
    with pytest.raises(CapabilityError):
        vm.run("true")
    with pytest.raises(CapabilityError):
        vm.read_text("/etc/hostname")


def test_several_vms_at_once_have_nothing_in_common(vm_factory):
    from pytest_qemuvm import NicSpec

    vms = [vm_factory(nics=[NicSpec(forward=22)], disks=[DiskSpec("1M")]) for _ in range(3)]
    assert len({vm.pid for vm in vms}) == 3
    assert len({vm.nics[0].mac for vm in vms}) == 3
    assert len({vm.port(22) for vm in vms}) == 3
    assert len({vm.run_dir for vm in vms}) == 3
    with pytest.raises(SpecError):
        vms[0].port(80)


def test_machines_started_in_threads_are_all_up(vm_factory):
    vms = [vm_factory(start=False) for _ in range(4)]
    threads = [threading.Thread(target=vm.start) for vm in vms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [vm.state for vm in vms] == ["running"] * 4


@pytest.mark.parametrize("machine", ["q35", "pc", "microvm"])
def test_every_machine_type_starts(vm_factory, machine):
    vm = vm_factory(machine=machine, cpus=2)
    assert len(vm.qmp.execute("query-cpus-fast")) == 2
    assert vm.state == "running"


def test_a_hundred_rounds_leave_nothing_behind(vm_factory, qemuvm):
    children = {process.pid for process in psutil.Process().children(recursive=True)}
    vm_factory().delete()
    files = set(qemuvm.root.iterdir())
    descriptors, threads = psutil.Process().num_fds(), threading.active_count()
    for _ in range(100):
        vm = vm_factory(disks=[DiskSpec("1M")])
        vm.delete()
    assert psutil.Process().num_fds() == descriptors
    assert threading.active_count() == threads
    assert set(qemuvm.root.iterdir()) == files
    left = {process.pid for process in psutil.Process().children(recursive=True)} - children
    assert len(left) <= 1  # the reaper, if this is the session's first test


@pytest.mark.parametrize("act", ["start", "restart", "stop", "pause"])
def test_a_deleted_vm_does_not_come_back_to_life(vm_factory, qemuvm, act):
    vm = vm_factory()
    vm.delete()
    with pytest.raises(VMStateError, match="deleted"):
        getattr(vm, act)()
    vm.delete()
    assert (vm.pid, vm.run_dir.exists()) == (None, False)


def test_who_looks_at_the_record_is_in_nobodys_way(vm_factory):
    vm = vm_factory()
    enough = threading.Event()

    def look():
        while not enough.is_set():
            assert vm.record.name == vm.name

    observers = [threading.Thread(target=look) for _ in range(2)]
    for observer in observers:
        observer.start()
    try:
        for _ in range(5):
            vm.stop()
            vm.start()
    finally:
        enough.set()
        for observer in observers:
            observer.join()


def test_a_pause_that_is_under_way_is_a_change_like_any_other(vm_factory):
    vm = vm_factory()
    with vm._change("stop"), pytest.raises(VMStateError):
        vm.pause()
    assert vm.state == "running"


def test_a_start_that_could_not_be_prepared_is_tried_again_from_the_beginning(vm_factory, tmp_path):
    image = tmp_path / "disk.qcow2"
    image.write_bytes(qcow2_header(1024**2))
    vm = vm_factory(start=False, disks=[DiskSpec(path=image)])
    image.write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(SpecError, match="not a qcow2 image"):
            vm.start()
        assert not vm.run_dir.exists()


def test_a_boot_that_is_given_for_ever_can_be_deleted(vm_factory, qemuvm):
    vm = vm_factory(boot_timeout=float("inf"))
    vm.delete()
    assert vm not in qemuvm.vms()


def test_of_several_forwards_of_one_port_the_first_nic_has_it(vm_factory):
    vm = vm_factory(nics=[NicSpec(forward=(22,)), NicSpec(forward=(22, 80))])
    listed = vm.qmp.execute("human-monitor-command", {"command-line": "info usernet"}, allow_dangerous=True)
    first, second = listed.split("nic1-net")
    assert str(vm.port(22)) in first
    assert str(vm.port(80)) in second


@pytest.mark.parametrize(
    "ask",
    [lambda vm: vm.screenshot(5), lambda vm: vm.qmp.execute("x", {"a": {1}})],
)
def test_what_makes_no_sense_is_refused_before_it_is_sent(vm_factory, ask):
    with pytest.raises(SpecError):
        ask(vm_factory())


def test_plans_are_kept_only_where_somebody_wants_them(vm_factory, qemuvm):
    vm_factory(start=False)
    assert list(qemuvm.recordings) == []
