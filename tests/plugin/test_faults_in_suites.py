"""Faults and chaos in whole runs: what a report says of them, what is kept, and that nothing stays broken."""

import re

import pytest

BARE = 'import pytest\npytestmark = pytest.mark.qemuvm(template="bare")\n'
SUITE = (
    BARE
    + """
@pytest.fixture(scope="module")
def shared(module_vm_factory):
    return module_vm_factory("shared")

def test_breaks(shared, vm):
    shared.faults.paused()
    shared.faults.frozen()
    vm.faults.killed()

def test_finds_it_whole_and_kills_it(shared):
    assert shared.state == "running"
    shared.faults.killed()

def test_finds_it_whole_again(shared):
    assert shared.state == "running"

def test_fails(vm, chaos):
    vm.faults.reset()
    run = chaos([vm.faults.paused, vm.faults.frozen], interval=0.01, duration=0.1, seed=7)
    run.wait()
    assert 0

def test_breaks_by_chance_what_cannot_be_broken(vm, chaos):
    chaos([vm.faults.memory_pressure], interval=0.01, duration=0.05).wait()
"""
)
TITLE = "*what was done to machines and networks*"


@pytest.mark.parametrize("workers", [(), ("-n", "2", "--dist", "loadfile")], ids=["alone", "workers"])
def test_a_failure_shows_what_was_done_and_keeps_it(pytester, run, workers):
    pytester.makepyfile(test_m=SUITE)
    result = run("--qemu-real", "-v", *workers)
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*chaos with seed 7*",
            "*seed=7, interval=0.01 and 2 faults make this schedule*",
            "*vm*.paused, for 0.0* s*",
            TITLE,
            "* +0.000 s  begun: vm* reset (RESET)",
            "*chaos begins: seed 7",
            "*begun: vm* paused (STOP)",
            "*healed: vm* paused",
            "*chaos ends: seed 7",
            "*ChaosError*",
        ]
    )
    assert len(re.findall("what was done to machines", result.stdout.str())) == 2
    (kept,) = pytester.path.glob("qemuvm-artifacts/*test_fails/timeline.txt")
    text = kept.read_text()
    assert "chaos with seed 7" in text
    assert "begun: vm" in text


def test_a_run_without_a_seed_can_be_repeated_with_what_its_report_says(pytester, run):
    source = BARE + (
        "def test_it(vm, chaos):\n"
        "    with chaos([vm.faults.paused, lambda: None], interval=0.01, duration=0.2{}) as run:\n"
        "        run.wait()\n"
        "        assert 0\n"
    )

    def schedule():
        return re.findall(r"^ +[\d.]+ s  \S.*, for .*$", run("--qemu-real").stdout.str(), re.MULTILINE)

    pytester.makepyfile(test_m=source.format(""))
    shown = run("--qemu-real").stdout.str()
    (seed,) = set(re.findall(r"seed=(\d+),", shown))
    first = re.findall(r"^ +[\d.]+ s  \S.*, for .*$", shown, re.MULTILINE)
    pytester.makepyfile(test_m=source.format(f", seed={seed}"))
    assert schedule() == first != []


def test_an_interrupt_in_the_middle_of_it_leaves_nothing_behind(pytester, run, remains):
    pytester.makepyfile(
        BARE
        + "import os, signal, time\n"
        + "def test_it(vm, chaos):\n"
        + "    with chaos([vm.faults.frozen, vm.faults.killed, vm.faults.paused], interval=0.01) as run:\n"
        + "        while len(run.turns) < 5: time.sleep(0.01)\n"
        + "        os.kill(os.getpid(), signal.SIGINT)\n"
        + "        time.sleep(60)\n"
    )
    result = run("--qemu-real")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert remains.wait_until_gone()


def test_chaos_that_the_test_did_not_stop_fails_its_teardown_where_it_failed(pytester, run):
    pytester.makepyfile(
        BARE
        + "def test_it(vm, chaos):\n"
        + "    run = chaos([vm.faults.memory_pressure], interval=0.01, seed=3)\n"
        + "    while not run.turns: pass\n"
    )
    result = run("--qemu-real")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*ChaosError: * of chaos failed*", "*hint: repeat it with seed=3*"])


def test_in_dry_run_machines_break_and_heal_and_what_needs_a_guest_is_skipped(pytester, run):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("fault", ["paused", "frozen", "killed", "reset"])
        def test_it(vm, fault, coherence):
            with getattr(vm.faults, fault)():
                assert coherence.check() == []
            assert vm.state == "running"
            getattr(vm.faults, fault)()

        @pytest.mark.qemuvm(needs="guest", balloon=True)
        @pytest.mark.parametrize("fault", ["nmi", "panic", "watchdog", "cpu_unplugged"])
        def test_guest(vm, fault):
            getattr(vm.faults, fault)()

        @pytest.mark.qemuvm(needs="guest", balloon=True)
        def test_more(vm):
            with vm.faults.clock_jump(60), vm.faults.memory_pressure("16M"):
                pass

        @pytest.mark.qemuvm(needs="guest")
        def test_by_chance(vm, chaos):
            chaos([vm.faults.panic], interval=0.01, duration=0.05).wait()

        def test_chaos(vm, chaos):
            chaos([vm.faults.paused, vm.faults.killed], interval=0.02, duration=0.1).wait()
            assert vm.state == "running"
        """
    )
    result = run("--qemu-dry-run", "-v", "-rs")
    result.assert_outcomes(passed=5, skipped=6)
