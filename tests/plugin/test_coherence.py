"""What a user sees of the coherence check: whose fault, what, and a clean start for the next test."""

import pytest

BARE = "import os, pytest, signal\npytestmark = pytest.mark.qemuvm(template='bare')\n"
LEAK = "    vm.qmp.execute('object-add', {'qom-type': 'iothread', 'id': 'extra'})\n"


def test_the_test_that_left_something_fails_in_its_teardown_and_keeps_its_outcome(pytester, run):
    pytester.makepyfile(
        test_m=BARE
        + f"def test_passes(vm):\n{LEAK}"
        + f"def test_fails(vm):\n{LEAK}    assert 0, 'of its own'\n"
        + "def test_clean(vm): pass\n"
    )
    result = run("--qemu-real", "-v")
    result.assert_outcomes(passed=2, failed=1, errors=2)
    shown = result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            "*::test_passes PASSED*",
            "*::test_passes ERROR*",
            "*::test_fails FAILED*",
            "*::test_fails ERROR*",
            "*ERROR at teardown of test_passes*",
            "1 finding at the end: leaked_object",
            "*leaked_object: vm0: object extra",
            "*expected: not there",
            "*found:    still there",
            "*to fix: *object-del*",
            "*qemuvm_expect('leaked_object')*",
            "*of its own*",
            "qemuvm: left behind by 2 of 3 tests: 2 leaked_object",
        ]
    )
    assert "scope.py" not in shown  # no line of the harness


def test_in_junit_and_under_workers_it_is_the_same(pytester, run):
    pytester.makepyfile(
        test_a=BARE + f"def test_a(vm):\n{LEAK}",
        test_b=BARE + f"def test_b(vm):\n{LEAK}def test_c(vm): pass\n",
    )
    result = run("--qemu-real", "-n", "2", "--junitxml=report.xml")
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(["qemuvm: left behind by 2 of 3 tests: 2 leaked_object"])
    report = (pytester.path / "report.xml").read_text()
    assert report.count("CoherenceError: 1 finding at the end: leaked_object") == 2


def test_all_that_a_user_may_forget_at_once(pytester, run, remains):
    pytester.makepyfile(
        BARE
        + """
import subprocess

def test_it(vm, qemuvm, disk_factory):
    disk_factory(name="data").path.unlink()
    (qemuvm.disk_dir / "mine.qcow2").write_text("")
    (qemuvm.root / "x.pid").write_text("1")
    subprocess.Popen(["sleep", "1000"], env={**os.environ, "QEMUVM_SESSION": qemuvm.tag})
    os.kill(vm.pid, signal.SIGKILL)

def test_after(vm, coherence):
    assert coherence.check() == []
"""
    )
    result = run("--qemu-real")
    result.assert_outcomes(passed=2, errors=1)
    found = ["vm_state_mismatch", "missing_disk", "orphan_process", "orphan_disk", "orphan_pidfile"]
    result.stdout.fnmatch_lines([f"5 findings at the end: {', '.join(found)}"])
    assert remains.wait_until_gone()


def test_what_was_declared_is_no_failure_and_what_does_not_come_is_one(pytester, run):
    pytester.makepyfile(
        BARE
        + f"""
expect = pytest.mark.qemuvm_expect

@expect("leaked_object")
def test_declared(vm):
{LEAK}
@expect("leaked_object")
@expect("leaked_netdev", "leaked_chardev")
def test_one_of_three(vm):
{LEAK}
@expect("leaked_object")
def test_repaired(vm, coherence):
{LEAK}    assert [finding.kind for finding in coherence.check()] == ["leaked_object"]
    vm.qmp.execute("object-del", {{"id": "extra"}})

@expect("leaked_objekt")
def test_misspelt(vm): pass

@expect
def test_empty(vm): pass
"""
    )
    result = run("--qemu-real")
    result.assert_outcomes(passed=3, errors=3)
    result.stdout.fnmatch_lines_random(
        [
            "expected leaked_chardev, which did not appear; expected leaked_netdev, which did not appear",
            "*did you mean 'leaked_object'*",
            '*write qemuvm_expect("orphan_disk")*',
            "qemuvm: nothing left behind by 3 tests",
        ]
    )


@pytest.mark.parametrize(
    ("how", "errors", "shown"),
    [("error", 1, True), ("warn", 0, True), ("off", 0, False)],
)
def test_how_serious_it_is(pytester, run, how, errors, shown):
    pytester.makepyfile(BARE + f"def test_it(vm):\n{LEAK}")
    result = run("--qemu-real", f"--qemu-coherence={how}")
    result.assert_outcomes(passed=1, errors=errors, warnings=1 if how == "warn" else 0)
    output = result.stdout.str()
    assert ("leaked_object: vm0: object extra" in output) == shown
    assert ("left behind by 1 of 1 test" in output) == shown
    if how == "warn":
        result.stdout.fnmatch_lines(["*QemuVMWarning: 1 finding at the end: leaked_object*"])


WIDER = (
    BARE
    + """
from pytest_qemuvm import DiskSpec, RngSpec

@pytest.fixture(scope="module")
def server(module_vm_factory):
    vm = module_vm_factory("server")
    vm.of_module = vm.hotplug(RngSpec())
    vm.qmp.execute("object-add", {"qom-type": "iothread", "id": "of-module"})
    yield vm
    vm.qmp.execute("object-del", {"id": "of-module"})

"""
)


def test_what_a_test_leaves_in_a_wider_vm_is_its_own_fault_and_gone_for_the_next(pytester, run):
    pytester.makepyfile(
        WIDER
        + """
def test_leaves(server, disk_factory):
    server.qmp.execute("blockdev-add", {"driver": "null-co", "node-name": "extra"})
    server.qmp.execute("device_add", {"driver": "usb-kbd", "id": "extra", "bus": "usb.0"})

def test_after(server, coherence):
    assert coherence.check() == []
    assert server.of_module.present
    assert "extra" not in [node["node-name"] for node in server.qmp.execute("query-named-block-nodes")]
"""
    )
    result = run("--qemu-real")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["2 findings at the end: leaked_block_node, leaked_device"])


def test_what_hotplug_left_in_a_wider_vm_is_unplugged_and_no_finding(pytester, run):
    pytester.makepyfile(
        WIDER
        + """
def test_leaves(server, disk_factory):
    server.hotplug(DiskSpec("1M"))
    server.attach(disk_factory(name="data"))
    assert len(server.devices) == 3

def test_after(server, qemuvm):
    assert server.devices == (server.of_module,)
    assert qemuvm.disks() == []
"""
    )
    run("--qemu-real").assert_outcomes(passed=2)


def test_what_a_module_leaves_is_found_at_its_end(pytester, run):
    pytester.makepyfile(
        test_a=WIDER.partition("    yield vm\n")[0]
        + "    return vm\n"
        + "def test_one(server): pass\ndef test_two(server): pass\n",
        test_b=BARE + "def test_three(vm): pass\n",
    )
    result = run("--qemu-real")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_two*", "*leaked_object: server: object of-module"]
    )


def test_what_a_fixture_of_the_test_cleans_up_is_no_finding(pytester, run):
    pytester.makepyfile(
        BARE
        + """
@pytest.fixture
def extra(vm):
    vm.qmp.execute("object-add", {"qom-type": "iothread", "id": "extra"})
    yield
    vm.qmp.execute("object-del", {"id": "extra"})

def test_it(extra, vm, disk_factory): disk_factory()
"""
    )
    run("--qemu-real").assert_outcomes(passed=1)


def test_several_errors_come_together(pytester, run):
    pytester.makepyfile(
        BARE
        + f"""
def test_it(vm):
{LEAK}    def refuse():
        del vm.delete
        raise RuntimeError("it will not go")
    vm.delete = refuse

def test_after(vm): pass
"""
    )
    result = run("--qemu-real")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*leaked_object: vm0: object extra*", "*it will not go*"])


def test_what_cannot_be_cleaned_away_is_said_once(pytester, run):
    pytester.makepyfile(
        WIDER
        + """
def test_leaves(server):
    server.qmp.execute("device_add", {"driver": "virtio-balloon-pci", "bus": server.plan.free_ports[1]})

def test_after(server): pass
"""
    )
    result = run("--qemu-real")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*not cleaned away: leaked_device *it has none*"])


def test_rules_and_facts_of_others_and_one_that_fails(pytester, run):
    pytester.makeconftest(
        """
from pytest_qemuvm.coherence import Finding, Rule

def pytest_qemuvm_coherence_facts():
    return {"answer": lambda scene, ledger: 42, "broken": lambda scene, ledger: 1 / 0}

def find(before, after, ledger):
    if after.extra["answer"] == 42 and ledger.vms:
        yield Finding("wrong_answer", ledger.vms[0].name, "43", "42", "count again")

def pytest_qemuvm_coherence_rules():
    return [Rule(("wrong_answer",), find)]
"""
    )
    pytester.makepyfile(
        BARE
        + """
def test_it(vm): pass

@pytest.mark.qemuvm_expect("wrong_answer", "check_error")
def test_declared(vm): pass
"""
    )
    result = run("--qemu-real")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines_random(
        ["*wrong_answer: vm0", "*to fix:   count again", "*check_error: broken", "*ZeroDivisionError*"]
    )


def test_a_periodic_check_ends_with_its_test(pytester, run):
    pytester.makepyfile(
        BARE
        + """
import threading

def test_starts(vm, coherence):
    coherence.start(0.01)
    assert "qemuvm-coherence" in [thread.name for thread in threading.enumerate()]

def test_after():
    assert "qemuvm-coherence" not in [thread.name for thread in threading.enumerate()]
"""
    )
    run("--qemu-real").assert_outcomes(passed=2)


def test_a_dry_run_finds_nothing(pytester, run):
    pytester.makepyfile("def test_it(coherence, qemuvm):\n    assert coherence.check() == []\n")
    run("--qemu-dry-run").assert_outcomes(passed=1)
