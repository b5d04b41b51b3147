"""M1 to M8: the mode is decided once, before collection, and never silently."""

import json
import os

import pytest

BARE = 'import pytest\npytestmark = pytest.mark.qemuvm(template="bare")\n'
USES_VM = BARE + "def test_it(vm):\n    assert vm.state == 'running'\n"


@pytest.fixture
def no_qemu(monkeypatch, tmp_path):
    """A host without QEMU: nothing is on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_m1_nothing_set_is_real_where_qemu_runs_and_the_header_says_what_was_proven(pytester, run):
    pytester.makepyfile(USES_VM)
    result = run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "qemuvm: real (nothing was said, and QEMU runs)",
            "qemuvm: /*qemu-system-x86_64, QEMU emulator version *",
            "qemuvm: accelerator *, cpu * (*proven in * ms*)",
            "qemuvm: 1 test used a real VM",
        ]
    )


@pytest.mark.usefixtures("no_qemu")
def test_m1_nothing_set_is_dry_where_there_is_no_qemu_and_the_header_says_why(pytester, run):
    pytester.makepyfile(USES_VM)
    result = run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "qemuvm: dry-run (nothing was said, and there is no QEMU*",
            "qemuvm: simulates QEMU 7.2 (there is no QEMU*",
            "qemuvm: 1 test used a simulated VM",
        ]
    )


@pytest.mark.usefixtures("no_qemu")
def test_m2_real_demanded_without_qemu_stops_before_collection(pytester, run):
    pytester.makepyfile("raise SystemError('collected')")
    result = run("--qemu-real")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: there is no QEMU*", "hint: *qemuvm setup*"])
    result.stdout.no_fnmatch_line("*collected*")


@pytest.mark.usefixtures("no_qemu")
@pytest.mark.parametrize("variable", ["QEMUVM_DRY_RUN", "VMAN_OPERATOR_DRY_RUN"])
def test_m2_the_variable_set_to_0_demands_real_as_well(pytester, run, monkeypatch, variable):
    monkeypatch.setenv(variable, "0")
    pytester.makepyfile(USES_VM)
    assert run().ret == pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo hello", "*is not a QEMU system emulator*"),
        ("exit 3", "*does not start*"),
        ("echo QEMU emulator version 6.2.0", "*too old*"),
    ],
)
def test_a_binary_that_is_no_usable_qemu_stops_the_session_in_every_mode_but_dry_run(
    pytester, run, tmp_path, text, said
):
    pytester.makepyfile(USES_VM)
    binary = script(tmp_path / "qemu", text)
    for demanded in ((), ("--qemu-real",)):
        result = run(f"--qemu-binary={binary}", *demanded)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([said])


def test_an_accelerator_that_is_not_proven_is_an_error_that_says_why(pytester, run, qemuvm):
    if qemuvm.capabilities.accelerator.name == "kvm":
        pytest.skip("KVM is proven on this host, so demanding it is no error")
    pytester.makepyfile(USES_VM)
    result = run("--qemu-accel=kvm")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: kvm was demanded and could not be proven*", "hint: *"])


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--qemu-accel=kvn"], "*--qemu-accel*kvn*"),
        (["--qemu-keep=sometimes"], "*--qemu-keep*"),
        (["--qemu-real", "--qemu-dry-run"], "*--qemu-real*--qemu-dry-run*contradict*"),
        (["--qemu-binary=/nonexistent/qemu"], "*/nonexistent/qemu*"),
        (["--qemu-plan", "."], "*--qemu-plan*"),
        (["--qemu-plan=nowhere/plan.json"], "*nowhere/plan.json*"),
        (["--qemu-dryrun"], "*unrecognized arguments*"),
    ],
)
def test_wrong_options_are_usage_errors(pytester, run, args, said):
    pytester.makepyfile(USES_VM)
    result = run(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


@pytest.mark.parametrize("variable", ["QEMUVM_DRY_RUN", "VMAN_NETWORK_DRY_RUN"])
def test_m3_other_words_are_usage_errors_that_name_the_variable(pytester, run, monkeypatch, variable):
    monkeypatch.setenv(variable, "perhaps")
    pytester.makepyfile(USES_VM)
    result = run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{variable}*perhaps*"])


def test_m4_networks_are_dry_by_default_and_have_a_switch_of_their_own(pytester, run, monkeypatch):
    pytester.makepyfile("def test_it(qemuvm):\n    print(qemuvm.mode, qemuvm.network_mode)\n")
    run("-s", "--qemu-real").stdout.fnmatch_lines(["*real dry-run*"])
    monkeypatch.setenv("QEMUVM_NETWORK_DRY_RUN", "no")
    run("-s", "--qemu-real").stdout.fnmatch_lines(["*real real*"])


def test_m5_command_line_over_environment_over_ini(pytester, run, monkeypatch):
    pytester.makepyfile("def test_it(qemuvm):\n    print('mode', qemuvm.mode)\n")
    pytester.makeini("[pytest]\nqemu_dry_run = yes\n")
    run("-s").stdout.fnmatch_lines(["*mode dry-run*"])
    monkeypatch.setenv("QEMUVM_REAL", "1")
    run("-s").stdout.fnmatch_lines(["qemuvm: real (QEMUVM_REAL=1)", "*mode real*"])
    run("-s", "--qemu-dry-run").stdout.fnmatch_lines(["qemuvm: dry-run (--qemu-dry-run)", "*mode dry-run*"])


def test_m6_a_module_that_writes_the_environment_changes_nothing(pytester, run):
    pytester.makepyfile("import os\nos.environ['QEMUVM_DRY_RUN'] = '1'\n" + USES_VM)
    run("--qemu-real").assert_outcomes(passed=1)
    run().assert_outcomes(passed=1)


def test_m6_nor_does_one_that_demands_real_machines_in_a_dry_run(pytester, run):
    pytester.makepyfile(
        "import os\nos.environ['QEMUVM_REAL'] = '1'\n"
        + BARE
        + "def test_it(vm, qemuvm):\n    assert (qemuvm.mode, vm.state) == ('dry-run', 'running')\n"
    )
    run("--qemu-dry-run").assert_outcomes(passed=1)


def test_m7_xdist_workers_inherit_the_decision(pytester, run):
    # Workers see this variable, the controller does not: whoever decides anew is found out.
    pytester.makeconftest(
        "import os\nif 'PYTEST_XDIST_WORKER' in os.environ:\n    os.environ['QEMUVM_DRY_RUN'] = '1'\n"
    )
    pytester.makepyfile(
        BARE
        + "@pytest.mark.parametrize('n', range(4))\n"
        + "def test_it(vm, qemuvm, n):\n    assert qemuvm.mode == 'real'\n"
    )
    result = run("-n", "2", "--qemu-real")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["qemuvm: 4 tests used a real VM"])


def test_m8_the_count_is_of_tests_that_really_used_a_vm(pytester, run):
    pytester.makepyfile(
        BARE
        + "def test_uses(vm): pass\n"
        + "def test_only_plans(vm_factory): vm_factory(start=False)\n"
        + "def test_nothing(): pass\n"
    )
    run("--qemu-real").stdout.fnmatch_lines(["qemuvm: 1 test used a real VM"])


def test_m8_strict_fails_a_run_that_used_no_vm(pytester, run):
    pytester.makepyfile("def test_nothing(): pass")
    run("--qemu-real").assert_outcomes(passed=1)
    result = run("--qemu-real", "--qemu-strict")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*no test used a VM*"])
    assert run("--qemu-real", "--qemu-strict", "--collect-only").ret == 0


def test_m8_strict_fails_a_skip_for_a_missing_capability(pytester, run):
    pytester.makepyfile(
        BARE + "@pytest.mark.qemuvm(needs='kvm')\ndef test_it(vm): pass\ndef test_other(vm): pass\n"
    )
    lenient = run("--qemu-real", "--qemu-accel=tcg", "-rs")
    lenient.assert_outcomes(passed=1, skipped=1)
    lenient.stdout.fnmatch_lines(["SKIPPED * test_m8*.py:3: needs kvm*tcg proven*"])
    strict = run("--qemu-real", "--qemu-accel=tcg", "--qemu-strict")
    strict.assert_outcomes(passed=1, errors=1)


def test_dry_run_plans_and_simulates_everything_and_leaves_nothing(pytester, run, remains):
    pytester.makepyfile(
        BARE
        + "def test_it(vm): pass\ndef test_later(vm_factory):\n    vm_factory('web', start=False).start()\n"
    )
    result = run("--qemu-dry-run", "--qemu-plan")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "*plan of vm0 for *::test_it*",
            "*qemu-system-x86_64*",
            "*-machine q35*",
            "*plan of web for *::test_later*",
        ]
    )
    result.stdout.fnmatch_lines(["qemuvm: 2 tests used a simulated VM"])
    assert remains.wait_until_gone()


def test_a_plan_that_cannot_be_written_is_told_and_ends_nothing(pytester, run):
    pytester.makepyfile("import os\ndef test_it(): os.mkdir('plan.json')\n")
    result = run("--qemu-dry-run", "--qemu-plan=plan.json")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["qemuvm: plans could not be written: *plan.json*"])


def test_a_skip_that_fails_because_of_strict_is_told_once(pytester, run):
    pytester.makepyfile(USES_VM + "@pytest.mark.qemuvm(needs='real')\ndef test_real(vm): pass\n")
    result = run("--qemu-dry-run", "--qemu-strict")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.no_fnmatch_line("*During handling*")


@pytest.mark.parametrize("mode", ["--qemu-real", "--qemu-dry-run"])
def test_m7_workers_inherit_either_mode(pytester, run, mode):
    pytester.makepyfile(BARE + "def test_it(vm, qemuvm): print(qemuvm.mode, qemuvm.capabilities.simulates)\n")
    result = run(mode, "-n", "1", "-rP")
    simulated = mode == "--qemu-dry-run"
    result.stdout.fnmatch_lines(["dry-run [17]*" if simulated else "real None"])


def test_m8_strict_counts_simulated_machines_in_a_dry_run(pytester, run):
    pytester.makepyfile(BARE + "def test_only_plans(vm_factory): vm_factory(start=False)\n")
    result = run("--qemu-dry-run", "--qemu-strict")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*no test used a VM*"])
    pytester.makepyfile(USES_VM)
    assert run("--qemu-dry-run", "--qemu-strict").ret == 0


def test_a_bad_spec_is_an_error_in_dry_run_too(pytester, run):
    pytester.makepyfile(
        "import pytest\n"
        "@pytest.mark.qemuvm(machine='q53')\ndef test_machine(vm): pass\n"
        "@pytest.mark.qemuvm(memory='512X')\ndef test_memory(vm): pass\n"
    )
    run("--qemu-dry-run").assert_outcomes(errors=2)


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_the_plan_is_written_as_json_by_test_whatever_the_mode(pytester, run, workers):
    pytester.makepyfile(test_one=BARE + "def test_it(vm): pass\n", test_two=BARE + "def test_it(vm): pass\n")
    for mode in ("--qemu-real", "--qemu-dry-run"):
        run(mode, "--qemu-plan=plan.json", *workers)
        plans = json.loads((pytester.path / "plan.json").read_text())
        assert set(plans) == {"test_one.py::test_it", "test_two.py::test_it"}
        (plan,) = plans["test_one.py::test_it"]
        assert plan["argv"][0].endswith("qemu-system-x86_64")
        assert plan["guest"] is False


def test_the_plugin_imports_nothing_heavy_and_starts_nothing_for_a_suite_without_vms(pytester, run):
    pytester.makepyfile(
        "import sys\n"
        "def test_modules(request):\n"
        "    heavy = {'asyncio', 'qemu', 'qemu.qmp', 'psutil', 'pytest_qemuvm.machine', 'yaml', 'filelock'}\n"
        "    assert 'pytest_qemuvm.plugin' in sys.modules\n"
        "    assert not heavy & set(sys.modules)\n"
    )
    args = [f"-pno:{name}" for name in ("anyio", "xdist", "timeout", "hypothesispytest", "looponfail")]
    run(*args).assert_outcomes(passed=1)


@pytest.mark.all_plugins
def test_without_the_plugin_nothing_of_it_is_there(pytester, run):
    pytester.makepyfile(
        "def test_it(pytestconfig):\n    assert not hasattr(pytestconfig.option, 'qemu_real')\n"
    )
    result = run("-p", "no:qemuvm")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*qemuvm: *")


@pytest.mark.parametrize("flag", ["--help", "--version", "--markers", "--fixtures"])
@pytest.mark.usefixtures("no_qemu")
def test_asking_for_help_needs_no_qemu(run, monkeypatch, flag):
    assert run(flag).ret == 0


def test_the_environment_of_this_process_is_not_changed(pytester, run):
    before = dict(os.environ)
    pytester.makepyfile(USES_VM)
    run()
    assert dict(os.environ) == before
