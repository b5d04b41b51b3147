"""What a failing test's report says of its machines, and what is kept."""

import json
import subprocess

import pytest

BARE = 'import pytest\npytestmark = pytest.mark.qemuvm(template="bare")\n'
FAILS = BARE + "def test_it(vm):\n    vm.qmp.execute('query-status')\n    assert 0\n"


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_a_failure_shows_command_line_qmp_and_console(pytester, run, workers):
    pytester.makepyfile(FAILS)
    result = run("--qemu-real", *workers)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*assert 0*",
            "*VM vm0: command line*",
            "*qemu-system-x86_64 *-machine q35*",
            "*VM vm0: last QMP exchanges*",
            "*query-status*",
            "*VM vm0: console, last lines*",
            "*VM vm0: kept*",
        ]
    )


def test_a_success_shows_nothing_and_keeps_nothing(pytester, run):
    pytester.makepyfile(BARE + "def test_it(vm): pass\n")
    result = run("--qemu-real", "-rA")
    result.stdout.no_fnmatch_line("*command line*")
    assert not (pytester.path / "qemuvm-artifacts").exists()


@pytest.mark.parametrize(
    ("keep", "kept"), [("never", set()), ("failed", {"bad"}), ("always", {"bad", "good"})]
)
def test_what_is_kept_is_what_was_asked_for(pytester, run, keep, kept):
    pytester.makepyfile(test_m=BARE + "def test_bad(vm): assert 0\ndef test_good(vm): pass\n")
    run("--qemu-real", f"--qemu-keep={keep}", "--qemu-artifacts=out")
    directories = {path.name for path in (pytester.path / "out").glob("*")}
    assert directories == {f"test_m.py-test_{name}" for name in kept}


def test_the_kept_command_starts_the_same_machine_by_hand(pytester, run):
    pytester.makepyfile(test_m=FAILS)
    run("--qemu-real")
    kept = pytester.path / "qemuvm-artifacts" / "test_m.py-test_it" / "vm0"
    assert "query-status" in (kept / "qmp.txt").read_text()
    assert json.loads((kept / "plan.json").read_text())["name"] == "vm0"
    by_hand = subprocess.run(
        [kept / "command.sh"],
        input='{"execute":"qmp_capabilities"}\n{"execute":"query-status"}\n{"execute":"quit"}\n',
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert '"running": true' in by_hand.stdout


def test_a_second_run_replaces_what_the_first_one_kept(pytester, run):
    pytester.makepyfile(test_m=BARE + "def test_it(vm_factory):\n    vm_factory('one')\n    assert 0\n")
    run("--qemu-real")
    pytester.makepyfile(test_m=BARE + "def test_it(vm_factory):\n    vm_factory('two')\n    assert 0\n")
    run("--qemu-real")
    kept = pytester.path / "qemuvm-artifacts" / "test_m.py-test_it"
    assert {path.name for path in kept.iterdir()} == {"two"}


def test_a_machine_that_does_not_start_is_an_error_with_all_that_is_known(pytester, run):
    pytester.makepyfile(BARE + "@pytest.mark.qemuvm(args=('-device', 'nothing'))\ndef test_it(vm): pass\n")
    result = run("--qemu-real")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*LaunchError*", "*exit status: 1*", "*'nothing' is not a valid device*", "*hint: *"]
    )
    (kept,) = (pytester.path / "qemuvm-artifacts").glob("*/vm0")
    assert "nothing" in (kept / "qemu.log").read_text()
    assert "-device nothing" in (kept / "command.sh").read_text()


def test_machines_of_wider_scope_are_reported_too(pytester, run):
    pytester.makepyfile(
        BARE
        + "@pytest.fixture(scope='module')\n"
        + "def server(module_vm_factory): return module_vm_factory('server')\n"
        + "def test_it(server): assert 0\n"
    )
    run("--qemu-real").stdout.fnmatch_lines(["*VM server: command line*"])


WRONG = BARE + (
    "def test_refused(vm):\n    vm.qmp.execute('device_del', {'id': 'nobody'})\n"
    "@pytest.mark.qemuvm(args=('-device', 'nothing'))\ndef test_launch(vm): pass\n"
    "@pytest.fixture\ndef mine(vm_factory): return vm_factory(memory='512X')\n"
    "def test_spec(mine): pass\n"
)


@pytest.mark.parametrize("ci", [False, True], ids=["terminal", "ci"])
@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "workers"])
def test_an_error_of_the_harness_is_shown_at_the_tests_own_line(pytester, run, monkeypatch, workers, ci):
    if ci:  # where pytest shows whole messages in its summary
        monkeypatch.setenv("CI", "true")
    pytester.makepyfile(test_m=WRONG)
    result = run("--qemu-real", *workers)
    result.assert_outcomes(failed=1, errors=2)
    shown = result.stdout.str()
    assert ">       vm.qmp.execute('device_del', {'id': 'nobody'})" in shown
    assert "def mine(vm_factory): return vm_factory(memory='512X')" in shown
    assert "LaunchError: QEMU ended" in shown
    for inside in ("/qmp/", "/machine/", "/spec/", "raise ", "direct cause"):
        assert inside not in shown
    # Once, in the error itself.
    assert shown.count("-device nothing") == 2


def test_the_full_trace_shows_the_way_through_the_harness(pytester, run):
    pytester.makepyfile(test_m=WRONG)
    shown = run("--qemu-real", "--full-trace").stdout.str()
    assert "direct cause" in shown
    assert "/machine/" in shown


def test_what_the_test_was_handling_stays_in_the_report(pytester, run):
    pytester.makepyfile(
        BARE
        + "def test_it(vm):\n"
        + "    try:\n        raise KeyError('of the test')\n"
        + "    except KeyError:\n        vm.qmp.execute('device_del', {'id': 'nobody'})\n"
    )
    run("--qemu-real").stdout.fnmatch_lines(
        ["*KeyError: 'of the test'*", "*During handling of the above*", "*CommandError: QEMU refused*"]
    )


def test_a_wrong_mark_is_told_once(pytester, run):
    pytester.makepyfile("import pytest\n@pytest.mark.qemuvm(memroy='1G')\ndef test_it(): pass\n")
    result = run("--qemu-dry-run")
    result.assert_outcomes(errors=1)
    assert result.stdout.str().count("did you mean 'memory'?") == 1


def test_artifacts_that_cannot_be_written_end_nothing(pytester, run):
    (pytester.path / "taken").write_text("a file")
    pytester.makepyfile(test_m=BARE + "def test_bad(vm): assert 0\ndef test_good(vm): pass\n")
    result = run("--qemu-real", "--qemu-artifacts=taken", "--qemu-keep=always")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*VM vm0: could not be kept*", "*Not a directory*taken*"])


FRAMES = """
def test_it(network_factory, vm_factory):
    lan = network_factory("lan")
    one, two = (vm_factory(name, nics=[lan]) for name in ("one", "two"))
    with lan.capture() as everything, lan.capture(vm=two):
        one.run(f"ping -c 2 {two.ip}")
    assert everything.frames >= 4
    with lan.partition(one, two):
        assert one.run(f"ping -c 1 -W 1 {two.ip}").ok
"""


def test_a_failing_test_keeps_the_frames_of_its_networks(pytester, run):
    pytester.makepyfile(FRAMES)
    result = run("--qemu-real", "--qemu-artifacts=kept")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*begun: partition of network 'lan': one | two",
            "*healed: partition of network 'lan': one | two",
            "*network lan: frames*",
        ]
    )
    (directory,) = (pytester.path / "kept").iterdir()
    sizes = {path.name: path.stat().st_size for path in directory.glob("*.pcap")}
    assert sizes.keys() == {"lan.pcap", "lan-0.pcap", "lan-1.pcap"}
    assert sizes["lan.pcap"] > sizes["lan-0.pcap"] > 24
