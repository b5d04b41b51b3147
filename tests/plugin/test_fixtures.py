"""Fixtures, marker and scopes, as a suite that uses the plugin sees them."""

BARE = 'import pytest\npytestmark = pytest.mark.qemuvm(template="bare")\n'


def test_each_test_gets_a_vm_of_its_own_and_wider_scopes_share_theirs(pytester, run, remains):
    pytester.makepyfile(
        BARE
        + """
@pytest.fixture(scope="module")
def server(module_vm_factory):
    return module_vm_factory("server")

@pytest.fixture(scope="session")
def shared(session_vm_factory):
    return session_vm_factory("shared", template="bare")

PIDS = set()

@pytest.mark.parametrize("n", range(3))
def test_it(vm, server, shared, n):
    assert {vm.state, server.state, shared.state} == {"running"}
    PIDS.update({vm.pid, server.pid, shared.pid})
    assert len(PIDS) == 3 + n

def test_mine_are_gone_by_now(qemuvm, server, shared):
    assert qemuvm.vms() == [server, shared] or qemuvm.vms() == [shared, server]
"""
    )
    run("--qemu-real").assert_outcomes(passed=4)
    assert remains.files() == []


def test_a_specs_keys_come_from_vm_spec_then_marks_then_the_call(pytester, run):
    pytester.makepyfile(
        """
import pytest
from pytest_qemuvm import VMSpec

pytestmark = pytest.mark.qemuvm(memory="512M", machine="pc")

@pytest.fixture
def vm_spec():
    return {"template": "bare", "memory": "128M", "cpus": 2}

def test_the_mark_of_the_module_over_the_fixture(vm):
    assert (vm.spec.template, vm.spec.bytes >> 20, vm.spec.cpus, vm.spec.machine) == ("bare", 512, 2, "pc")

@pytest.mark.qemuvm(memory="1G")
def test_the_closest_mark_wins_key_by_key(vm):
    assert (vm.spec.bytes >> 20, vm.spec.machine) == (1024, "pc")

def test_the_call_wins_over_all(vm_factory):
    vm = vm_factory(memory="64M", machine="q35", start=False)
    assert (vm.spec.bytes >> 20, vm.spec.machine, vm.spec.cpus) == (64, "q35", 2)

@pytest.mark.qemuvm(machine="q35")
class TestClass:
    @pytest.fixture
    def vm_spec(self):
        return VMSpec(template="bare", cpus=3)

    def test_a_spec_does_as_well_as_a_dict(self, vm):
        assert (vm.spec.cpus, vm.spec.machine, vm.spec.bytes >> 20) == (3, "q35", 512)
"""
    )
    run("--qemu-real").assert_outcomes(passed=4)


def test_specs_can_be_parametrised(pytester, run):
    pytester.makepyfile(
        """
import pytest

@pytest.mark.parametrize("vm_spec", [
    pytest.param({"template": "bare", "machine": machine}, id=machine) for machine in ("q35", "pc", "microvm")
])
def test_it(vm):
    assert vm.state == "running"
"""
    )
    result = run("--qemu-real", "-v")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*test_it?microvm? PASSED*"])


def test_a_misspelt_key_is_an_error_of_that_test_and_names_the_nearest(pytester, run):
    pytester.makepyfile(
        """
import pytest

@pytest.mark.qemuvm(memroy="1G")
def test_marked(vm): pass

@pytest.mark.qemuvm(memroy="1G")
def test_without_a_vm(): pass

@pytest.mark.qemuvm("bare")
def test_positional(vm): pass

@pytest.mark.qemuvm(template="bare")
def test_called(vm_factory):
    with pytest.raises(ValueError, match="memroy"):
        vm_factory(memroy="1G")

@pytest.mark.qemuvm(template="bare")
def test_good(vm): pass
"""
    )
    result = run("--qemu-real")
    result.assert_outcomes(passed=2, errors=3)
    result.stdout.fnmatch_lines(["*'memroy'*", "*did you mean 'memory'*"])


def test_a_fixture_vm_spec_that_gives_nonsense_is_named(pytester, run):
    pytester.makepyfile("import pytest\n@pytest.fixture\ndef vm_spec(): return 7\ndef test_it(vm): pass\n")
    result = run("--qemu-real")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the fixture vm_spec gave 7*"])


def test_needs_are_met_or_skip_with_the_reason(pytester, run):
    pytester.makepyfile(
        """
import pytest

@pytest.mark.qemuvm(needs="real")
def test_real(): pass

@pytest.mark.qemuvm(needs=["real", "kvm"])
def test_kvm(): pass

@pytest.mark.qemuvm(needs="kvn")
def test_misspelt(): pass
"""
    )
    run("--qemu-real", "--qemu-accel=tcg").assert_outcomes(passed=1, skipped=1, errors=1)
    result = run("--qemu-dry-run", "-rs")
    result.assert_outcomes(skipped=2, errors=1)
    result.stdout.fnmatch_lines(["*SKIPPED*needs real: this is a dry-run*"])


def test_the_qmp_fixture_is_the_vms_own_monitor(pytester, run):
    pytester.makepyfile(
        BARE
        + "def test_it(vm, qmp):\n    assert qmp is vm.qmp\n"
        + "    assert qmp.execute('query-status')['status'] == 'running'\n"
    )
    run("--qemu-real").assert_outcomes(passed=1)


def test_works_beside_last_failed_and_without_the_cache_provider(pytester, run):
    pytester.makepyfile(BARE + "def test_good(vm): pass\ndef test_bad(vm): assert 0\n")
    args = ("-p", "no:asyncio", "-W", "error", "--qemu-real")
    pytester.runpytest_subprocess(*args).assert_outcomes(passed=1, failed=1)
    pytester.runpytest_subprocess(*args, "--lf").assert_outcomes(failed=1)
    run("--qemu-real", "-W", "error", "-x").assert_outcomes(passed=1, failed=1)


def test_what_is_said_wins_over_the_template_even_if_it_is_the_default(pytester, run):
    pytester.makepyfile(
        """
import pytest
from pytest_qemuvm import VMSpec

@pytest.fixture
def vm_spec(template_factory):
    template_factory("small", base="bare", cpus=4, memory="64M", display=False)
    return VMSpec(template="small", cpus=1)

def test_the_fixture_said_it(vm_factory):
    vm = vm_factory(start=False)
    assert (vm.spec.cpus, vm.spec.bytes >> 20, vm.spec.display) == (1, 64, False)

@pytest.mark.qemuvm(display=True)
def test_so_did_a_mark_and_the_call(vm_factory):
    vm = vm_factory(memory="256M", start=False)
    assert (vm.spec.cpus, vm.spec.bytes >> 20, vm.spec.display) == (1, 256, True)
"""
    )
    run("--qemu-real").assert_outcomes(passed=2)
