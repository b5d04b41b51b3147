"""What a test may send to its machines: the mark that permits, and what is kept of the audit."""

import json

import pytest

BARE = (
    "import pytest\nfrom pytest_qemuvm.errors import CommandBlocked\n"
    "pytestmark = pytest.mark.qemuvm(template='bare')\n"
)


def test_a_mark_permits_for_its_own_test_alone(pytester, run):
    pytester.makepyfile(
        BARE
        + "@pytest.fixture(scope='module')\n"
        + "def server(module_vm_factory):\n"
        + "    vm = module_vm_factory()\n"
        + "    with pytest.raises(CommandBlocked):\n"
        + "        vm.qmp.execute('inject-nmi')\n"
        + "    return vm\n"
        + "@pytest.mark.qemuvm_allow('inject-nmi')\n"
        + "class TestBoth:\n"
        + "    @pytest.mark.qemuvm_allow('human-monitor-command')\n"
        + "    def test_marked(self, server):\n"
        + "        server.qmp.execute('inject-nmi')\n"
        + "        server.qmp.execute('human-monitor-command', {'command-line': 'info name'})\n"
        + "    def test_by_class_only(self, server):\n"
        + "        server.qmp.execute('inject-nmi')\n"
        + "        with pytest.raises(CommandBlocked):\n"
        + "            server.qmp.execute('human-monitor-command', {'command-line': 'info name'})\n"
        + "def test_unmarked(server):\n"
        + "    with pytest.raises(CommandBlocked):\n"
        + "        server.qmp.execute('inject-nmi')\n"
    )
    run("--qemu-real").assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("qemuvm_allow('inject-nmy')", "*did you mean 'inject-nmi'*"),
        ("qemuvm_allow()", '*write qemuvm_allow("inject-nmi")*'),
        ("qemuvm_allow(command='quit')", '*write qemuvm_allow("inject-nmi")*'),
        ("qemuvm_allow(7)", "*7 is no QMP command*"),
    ],
)
def test_a_mark_that_permits_nothing_is_an_error_of_the_test(pytester, run, mark, said):
    pytester.makepyfile(f"import pytest\n@pytest.mark.{mark}\ndef test_it(): pass\n")
    result = run("--qemu-dry-run", "--strict-markers")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([said])


def test_a_failing_test_keeps_its_machines_part_of_the_audit(pytester, run):
    pytester.makepyfile(
        BARE
        + "def test_it(vm, vm_factory):\n"
        + "    vm_factory('other')\n"
        + "    vm.qmp.execute('qom-list', {'path': '/machine'})\n"
        + "    vm.qmp.execute('inject-nmi')\n"
    )
    result = run("--qemu-real")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*-- not sent: inject-nmi:*"])
    (kept,) = (pytester.path / "qemuvm-artifacts").glob("*/vm0")
    lines = [json.loads(line) for line in (kept / "audit.jsonl").read_text().splitlines()]
    assert {line["vm"] for line in lines} == {"vm0"}
    assert [(line["command"], line["outcome"]) for line in lines][-1] == ("inject-nmi", "blocked")
    assert {line["nodeid"].rpartition("::")[2] for line in lines} == {"test_it"}
    assert "qom-list(path)" in (kept / "audit.txt").read_text()


def test_nothing_of_the_audit_outlives_the_session(pytester, run, remains):
    pytester.makepyfile(BARE + "def test_it(vm): vm.qmp.execute('query-name')\n")
    run("--qemu-real").assert_outcomes(passed=1)
    assert remains.wait_until_gone()


def test_the_artefacts_are_free_to_write_to(pytester, run):
    pytester.makepyfile(
        BARE
        + "def test_it(vm, pytestconfig):\n"
        + "    kept = pytestconfig.rootpath / 'kept'\n"
        + "    kept.mkdir()\n"
        + "    vm.qmp.execute('screendump', {'filename': str(kept / 'x.ppm')})\n"
        + "    assert (kept / 'x.ppm').exists()\n"
        + "    with pytest.raises(CommandBlocked):\n"
        + "        vm.qmp.execute('screendump', {'filename': str(kept.parent / 'x.ppm')})\n"
    )
    run("--qemu-real", "--qemu-artifacts=kept").assert_outcomes(passed=1)


def test_strict_refuses_what_is_deprecated(pytester, run):
    pytester.makepyfile(
        BARE
        + "from pytest_qemuvm.errors import InvalidArguments\n"
        + "from pytest_qemuvm.qmp import connect\n"
        + "def test_it(vm):\n"
        + "    with connect(vm.name) as client:\n"
        + "        for qmp in (vm.qmp, client):\n"
        + "            with pytest.raises(InvalidArguments, match='deprecated'):\n"
        + "                qmp.execute('blockdev-open-tray', {'device': 'x'})\n"
    )
    run("--qemu-real", "--qemu-strict").assert_outcomes(passed=1)


FROM_ELSEWHERE = """
import subprocess
import sys
import pytest
from pytest_qemuvm.errors import CommandBlocked
from pytest_qemuvm.qmp import connect

HMP = ("human-monitor-command", {"command-line": "info name"})

@pytest.fixture(scope="module")
def client(module_vm_factory):
    vm = module_vm_factory("server", template="bare")
    with connect("server") as client:
        yield client
        with pytest.raises(CommandBlocked):
            client.execute("inject-nmi")

@pytest.fixture(scope="class")
def wider(client):
    # It is set up for a test that is marked, and is not that test.
    with pytest.raises(CommandBlocked):
        client.execute(*HMP)

def test_before(client):
    with pytest.raises(CommandBlocked):
        client.execute(*HMP)

class TestMarked:
    @pytest.mark.qemuvm_allow("human-monitor-command")
    def test_marked(self, client, wider):
        assert "server" in client.execute(*HMP)
        with pytest.raises(CommandBlocked):
            client.execute("inject-nmi")

def test_after(client):
    with pytest.raises(CommandBlocked):
        client.execute(*HMP)

@pytest.mark.qemuvm_allow("human-monitor-command")
def test_another_process_while_its_first_machine_is_there(vm_factory):
    # The harness itself begins in a test that is marked, where this test runs alone.
    vm_factory("own", template="bare")
    tool = [sys.executable, "-m", "pytest_qemuvm", "qmp", "own"]
    done = subprocess.run([*tool, HMP[0], "command-line=info name"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([*tool, "inject-nmi"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "blocked" in done.stderr
"""


def test_a_mark_permits_to_other_processes_while_its_test_runs(pytester, run):
    pytester.makepyfile(FROM_ELSEWHERE)
    run("--qemu-real").assert_outcomes(passed=4)
    run("--qemu-real", "-k", "another_process").assert_outcomes(passed=1, deselected=3)
