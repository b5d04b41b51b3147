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
        + "def test_it(vm):\n"
        + "    with pytest.raises(InvalidArguments, match='deprecated'):\n"
        + "        vm.qmp.execute('blockdev-open-tray', {'device': 'x'})\n"
    )
    run("--qemu-real", "--qemu-strict").assert_outcomes(passed=1)
