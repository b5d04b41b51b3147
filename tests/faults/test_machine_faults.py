"""Faults of machines: each comes about, is seen by an event or a look, and heals; in any order, and once."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pytest_qemuvm import CpuSpec, DriverSpec
from pytest_qemuvm.errors import NoChannel, NotRunning, QmpTimeout, SpecError, VMStateError
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.faults.processor import FromTheStart, Plugged
from pytest_qemuvm.machine.processors import SOUND_SINCE

BARE = pytest.mark.qemuvm(template="bare")


def thread_states(vm):
    stats = Path(f"/proc/{vm.pid}/task").glob("*/stat")
    return {stat.read_text().rpartition(")")[2].split()[0] for stat in stats}


def timeline(vm, request):
    ledger = vm.faults._ledger
    return [moment.text for moment in ledger.timeline.of(request.node.nodeid)]


def events(vm, since=0):
    return [event.name for event in vm.qmp.events.since(since)]


class TestPaused:
    @BARE
    def test_its_processors_stand_still_until_it_heals(self, vm, coherence, request):
        since = vm.qmp.events.last
        with vm.faults.paused() as fault:
            assert fault.active
            assert vm.faults.active == (fault,)
            assert vm.state == vm.record.state == "paused"
            assert coherence.check() == []
        assert vm.state == vm.record.state == "running"
        assert events(vm, since) == ["STOP", "RESUME"]
        assert timeline(vm, request) == [f"begun: {vm.name} paused (STOP)", f"healed: {vm.name} paused"]

    @BARE
    def test_a_second_one_is_refused_and_the_first_stays(self, vm):
        with vm.faults.paused():
            with pytest.raises(VMStateError):
                vm.faults.paused()
            assert vm.state == "paused"
            assert len(vm.faults.active) == 1

    @BARE
    def test_one_that_the_test_paused_is_left_so(self, vm):
        vm.pause()
        with pytest.raises(VMStateError):
            vm.faults.paused()
        assert vm.state == "paused"

    @BARE
    def test_one_that_the_test_has_resumed_is_healed(self, vm):
        with vm.faults.paused():
            vm.resume()
        assert vm.state == "running"

    @BARE
    def test_one_that_has_ended_has_nothing_left_to_heal(self, vm):
        fault = vm.faults.paused()
        vm.stop()
        assert not fault.active
        fault.heal()
        assert vm.state == "stopped"

    @BARE
    def test_nor_has_one_whose_qemu_was_killed_behind_our_back(self, vm):
        fault = vm.faults.paused()
        os.kill(vm.pid, signal.SIGKILL)
        vm.wait_stopped()
        fault.heal()
        assert not fault.active
        vm.restart()

    def test_it_needs_a_machine_that_runs(self, vm_factory):
        vm = vm_factory(template="bare", start=False)
        for name in ("paused", "frozen", "killed", "reset", "nmi", "panic", "watchdog", "cpu_unplugged"):
            with pytest.raises(NotRunning):
                getattr(vm.faults, name)()
        assert vm.faults.active == ()


class TestFrozen:
    @BARE
    def test_every_thread_stands_still_until_it_heals(self, vm, coherence):
        with vm.faults.frozen() as fault:
            assert thread_states(vm) == {"T"}
            with pytest.raises(QmpTimeout):
                vm.qmp.execute("query-status", timeout=0.1)
            assert coherence.check() == []  # and QEMU is not asked
            with pytest.raises(VMStateError):
                vm.faults.frozen()
            assert fault.active
        assert "T" not in thread_states(vm)
        assert vm.state == "running"

    @BARE
    @pytest.mark.parametrize(
        ("end", "by"), [("stop", "quit"), ("restart", None), ("kill", "kill"), ("delete", "quit")]
    )
    def test_it_keeps_nobody_from_ending_the_machine(self, vm, end, by):
        fault = vm.faults.frozen()
        getattr(vm, end)()
        # It heard what it was told: no step of the ladder had to be waited for in vain.
        assert vm.stopped_by == by
        assert not fault.active
        fault.heal()

    @BARE
    def test_others_heal_while_it_lasts(self, vm):
        paused = vm.faults.paused()
        frozen = vm.faults.frozen()
        paused.heal()
        assert thread_states(vm) <= {"T", "R", "S"}
        assert vm.record.state == "running"
        assert frozen.active
        frozen.heal()
        assert vm.state == "running"

    @BARE
    def test_others_begin_while_it_lasts(self, vm):
        with vm.faults.frozen():
            paused = vm.faults.paused()
        assert vm.state == "paused"
        paused.heal()
        assert vm.state == "running"

    @BARE
    def test_it_ends_with_the_test(self, vm):
        vm.faults.frozen()


class TestKilled:
    @BARE
    def test_it_is_gone_until_it_heals(self, vm, coherence, request):
        pid = vm.pid
        with vm.faults.killed() as fault:
            assert vm.state == vm.record.state == "stopped"
            assert vm.stopped_by == "kill"
            assert not Path(f"/proc/{pid}").exists()
            assert vm.faults.active == (fault,)
            assert coherence.check() == []
            for other in (vm.faults.killed, vm.faults.paused):
                with pytest.raises(NotRunning):
                    other()
        assert vm.state == "running"
        assert timeline(vm, request)[0] == f"begun: {vm.name} killed (exit status -9)"
        assert timeline(vm, request)[-1] == f"healed: {vm.name} killed"

    @BARE
    def test_it_takes_other_faults_along(self, vm):
        paused = vm.faults.paused()
        with vm.faults.killed():
            assert not paused.active
            paused.heal()
        assert vm.state == "running"

    @BARE
    def test_one_that_the_test_has_started_is_healed(self, vm):
        fault = vm.faults.killed()
        vm.start()
        pid = vm.pid
        assert not fault.active
        fault.heal()
        assert vm.pid == pid

    @BARE
    def test_one_that_was_deleted_stays_so(self, vm):
        fault = vm.faults.killed()
        vm.delete()
        assert not fault.active
        fault.heal()

    @BARE
    def test_one_that_ends_with_the_test_is_not_started_for_that(self, vm, qemuvm, request):
        fault = vm.faults.killed()
        qemuvm.end(request.node.nodeid, is_test=True)
        assert not fault.active
        assert vm.record.starts == 1

    def test_its_guest_is_ready_again(self, vm):
        with vm.faults.killed():
            pass
        assert vm.run("echo ready").stdout == "ready\n"


class TestReset:
    @BARE
    def test_without_a_guest_it_is_an_event(self, vm):
        since = vm.qmp.events.last
        vm.faults.reset().heal()
        assert "RESET" in events(vm, since)
        assert vm.state == "running"

    def test_the_guest_boots_while_it_lasts_and_is_up_when_it_has_healed(self, vm):
        boot = "cat /proc/sys/kernel/random/boot_id"
        before = vm.run(boot).stdout
        with vm.faults.reset(), vm.faults.paused():
            pass  # what it booted with is waited for by what needs the guest, not by a pause
        assert vm.run(boot).stdout != before


@pytest.fixture(scope="module")
def tiny(module_vm_factory):
    return module_vm_factory("tiny", cpus=3, balloon=True)


def test_an_nmi_is_counted_by_the_guest(tiny, request):
    tiny.faults.nmi()
    assert "NMI received" in tiny.run("dmesg").stdout
    assert timeline(tiny, request) == ["NMI to tiny (the guest has counted it)"]


def test_a_panic_is_no_finding_and_heals_by_a_new_start(vm, coherence):
    with vm.faults.panic():
        assert vm.state == "guest-panicked"
        assert coherence.check() == []
        with pytest.raises(VMStateError):
            vm.faults.panic()
        with pytest.raises(VMStateError):
            vm.faults.clock_jump(60)
    assert vm.run("echo ready").stdout == "ready\n"
    assert vm.record.starts == 2
    vm.faults.panic()


class TestWatchdog:
    @pytest.mark.qemuvm(devices=[DriverSpec("i6300esb")])
    def test_it_runs_out_and_what_qemu_does_is_undone(self, vm, coherence):
        jump = vm.faults.clock_jump(1000)
        with vm.faults.watchdog("pause"):
            assert vm.state == "watchdog"
            assert coherence.check() == []
            jump.heal()  # for which it runs for a moment
        assert vm.state == vm.record.state == "running"
        boot = vm.read_text("/proc/sys/kernel/random/boot_id")
        # A daemon of the guest's own, which would feed it for ever.
        vm.run("watchdog -T 2 -t 1 /dev/watchdog")
        with vm.faults.watchdog("none"):
            with pytest.raises(VMStateError, match="already"):
                vm.faults.watchdog()
            assert "T" in vm.run("ps -o comm,stat | grep '^watchdog '").stdout
        assert "T" not in vm.run("ps -o comm,stat | grep '^watchdog '").stdout
        vm.run("killall watchdog")
        with vm.faults.watchdog():
            assert vm.state == "running"
        assert vm.read_text("/proc/sys/kernel/random/boot_id") != boot
        vm.faults.watchdog("poweroff")
        assert vm.state == vm.record.state == "stopped"
        assert coherence.check() == []
        assert len(vm.faults.active) == 1

    def test_one_that_is_not_there(self, tiny):
        with pytest.raises(VMStateError, match="no watchdog"):
            tiny.faults.watchdog()

    def test_an_action_that_there_is_not(self, tiny):
        with pytest.raises(SpecError, match="rest"):
            tiny.faults.watchdog("rest")


class TestMemoryPressure:
    def test_the_guest_has_less_until_it_heals_in_any_order(self, tiny):
        def left():
            return tiny.qmp.execute("query-balloon")["actual"] >> 20

        assert left() == 256
        first, second = tiny.faults.memory_pressure("48M"), tiny.faults.memory_pressure("16M")
        assert left() == 192
        first.heal()
        assert left() == 240
        with tiny.faults.paused():
            second.heal()
            assert tiny.state == "paused"
        assert left() == 256
        assert "BALLOON_CHANGE" in events(tiny)

    @pytest.mark.parametrize("size", ["256M", "1G", 0, "64", None])
    def test_a_size_that_makes_no_sense(self, tiny, size):
        with pytest.raises(SpecError):
            tiny.faults.memory_pressure(size)
        assert tiny.faults.active == ()

    def test_a_machine_without_a_balloon(self, vm):
        with pytest.raises(VMStateError, match="balloon"):
            vm.faults.memory_pressure("16M")


class TestClockJump:
    @staticmethod
    def ahead(vm):
        return int(vm.run("date +%s").stdout) - time.time()

    def test_the_guest_shows_another_time_until_it_heals_in_any_order(self, tiny):
        forwards = tiny.faults.clock_jump(3600)
        assert abs(self.ahead(tiny) - 3600) < 30
        backwards = tiny.faults.clock_jump(-7200.5)
        assert abs(self.ahead(tiny) + 3600) < 30
        forwards.heal()
        assert abs(self.ahead(tiny) + 7200) < 30
        backwards.heal()
        assert abs(self.ahead(tiny)) < 30

    def test_a_time_of_the_guests_own_comes_back(self, tiny):
        tiny.run("date -s @1000000000")
        with tiny.faults.clock_jump(86400):
            pass
        assert abs(int(tiny.run("date +%s").stdout) - 1000000000) < 30
        tiny.run(f"date -s @{int(time.time())}")

    @pytest.mark.parametrize(
        "seconds", [0, float("nan"), float("inf"), -1e10, 1e12, "60", None, True], ids=repr
    )
    def test_a_jump_that_is_none(self, tiny, seconds):
        with pytest.raises(SpecError):
            tiny.faults.clock_jump(seconds)
        assert tiny.faults.active == ()


class TestProcessors:
    @staticmethod
    def number(vm):
        return int(vm.run("nproc").stdout)

    def test_one_goes_after_the_other_and_they_come_back_in_any_order(self, tiny, coherence):
        first = tiny.faults.cpu_unplugged()
        assert self.number(tiny) == 2
        second = tiny.faults.cpu_unplugged()
        assert self.number(tiny) == 1
        with pytest.raises(VMStateError, match="one processor"):
            tiny.faults.cpu_unplugged()
        first.heal()
        assert self.number(tiny) == 2
        second.heal()
        assert self.number(tiny) == 3
        assert coherence.check() == []

    def test_one_that_was_plugged_keeps_its_handle(self, vm):
        plugged = vm.hotplug(CpuSpec())
        with vm.faults.cpu_unplugged():
            assert self.number(vm) == 1
        assert self.number(vm) == 2
        assert plugged.present
        assert vm.devices.count(plugged) == 1

    @pytest.mark.parametrize("plugged", [False, True])
    def test_what_a_sound_qemu_does(self, vm_factory, coherence, plugged):
        """The way of KVM, on an emulator that bears it for once."""
        vm = vm_factory(cpus=1 if plugged else 2)
        if vm.qmp.greeting["version"]["qemu"]["major"] < SOUND_SINCE:
            pytest.skip("this QEMU would break its own memory")
        device = vm.hotplug(CpuSpec()) if plugged else None
        channel, deadline = vm.live.channel, Deadline.after(60)
        (slot,) = (
            slot
            for slot in vm.qmp.execute("query-hotpluggable-cpus")
            if slot.get("qom-path", "").startswith("/machine/unattached") and slot["props"]["core-id"]
        ) if device is None else (None,)  # fmt: skip
        processor = Plugged(vm.live, channel, device) if device else FromTheStart(vm.live, channel, slot)
        assert processor.take_out(deadline) == 1
        assert self.number(vm) == 1
        processor.put_back(deadline)
        assert self.number(vm) == 2
        assert device is None or device.present
        assert coherence.check() == []

    def test_a_boot_meanwhile_brings_it_back_where_the_guest_had_it_offline(self, tiny):
        fault = tiny.faults.cpu_unplugged()
        tiny.reset()
        fault.heal()
        assert self.number(tiny) == 3


@BARE
def test_what_needs_a_guest_says_so_where_there_is_none(vm, request):
    faults = vm.faults
    for fault in (faults.nmi, faults.panic, faults.watchdog, faults.cpu_unplugged):
        with pytest.raises(NoChannel):
            fault()
    with pytest.raises(NoChannel):
        faults.clock_jump(60)
    assert faults.active == ()
    assert timeline(vm, request) == []


@BARE
def test_threads_may_break_and_heal_one_machine(vm):
    failed = []

    def some(fault, mine):
        for _ in range(10):
            try:
                with fault():
                    pass
            except mine as error:
                failed.append(error)

    threads = [
        threading.Thread(target=some, args=(fault, VMStateError))
        for fault in (vm.faults.paused, vm.faults.frozen, vm.faults.reset)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert vm.faults.active == ()
    assert "T" not in thread_states(vm)
    assert vm.state == "running"
