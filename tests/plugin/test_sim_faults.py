"""``sim_faults``: what a user sees of each thing that goes wrong, and that only a simulator does so."""

import pytest

HEAD = """
import pytest
from pytest_qemuvm import (
    CrashAfter, CrashAtLaunch, DisconnectAfter, EventStorm, GuestModel, HangAfter, HangAtLaunch, RefuseUnplug,
    RngSpec, SlowReplies, SplitPackets,
)
from pytest_qemuvm.errors import (
    LaunchError, NeedsSimulator, QmpDisconnected, QmpTimeout, SpecError, UnplugRejected, UnplugTimeout,
)
pytestmark = pytest.mark.qemuvm(template="bare")
FORGIVEN = pytest.mark.qemuvm_expect("vm_state_mismatch")
"""

FAULTS = {
    "crash at launch": """
def test_it(sim_faults, vm_factory):
    sim_faults(CrashAtLaunch(status=3, stderr="out of luck"))
    with pytest.raises(LaunchError) as caught:
        vm_factory()
    assert caught.value.status == 3
    assert "out of luck" in caught.value.log
    sim_faults(CrashAtLaunch(signal=6))
    with pytest.raises(LaunchError) as caught:
        vm_factory()
    assert caught.value.status == -6
    sim_faults()
    assert vm_factory().state == "running"
""",
    "hang at launch": """
def test_it(sim_faults, vm_factory, monkeypatch):
    from pytest_qemuvm.machine import live
    monkeypatch.setattr(live, "GREETING_SECONDS", 0.5)
    sim_faults(HangAtLaunch())
    vm = vm_factory(start=False)
    with pytest.raises(LaunchError) as caught:
        vm.start()
    assert caught.value.status is None
    assert vm.state == "stopped"
""",
    "crash after commands": """
@FORGIVEN
@pytest.mark.parametrize(
    ("fault", "status"), [(CrashAfter(2), -9), (CrashAfter(2, signal=None, status=4), 4)]
)
def test_it(sim_faults, vm_factory, fault, status):
    sim_faults(fault)
    vm = vm_factory()
    for _ in range(2):
        vm.qmp.execute("query-name")
    with pytest.raises(QmpDisconnected) as caught:
        vm.qmp.execute("query-name")
    assert caught.value.status == status
    assert vm.state == "stopped"
""",
    "hang": """
def test_it(sim_faults, vm_factory):
    sim_faults(HangAfter(1))
    vm = vm_factory()
    vm.qmp.execute("query-name")
    with pytest.raises(QmpTimeout):
        vm.qmp.execute("query-name", timeout=0.2)
    vm.kill()
""",
    "slow replies": """
def test_it(sim_faults, vm_factory):
    sim_faults(SlowReplies(300))
    vm = vm_factory()
    with pytest.raises(QmpTimeout):
        vm.qmp.execute("query-name", timeout=0.05)
    assert vm.qmp.execute("query-status")["running"]
    vm.kill()
""",
    "split packets": """
def test_it(sim_faults, vm_factory):
    sim_faults(SplitPackets(1))
    vm = vm_factory()
    assert vm.qmp.execute("query-status")["running"]
    with vm.hotplug(RngSpec()):
        pass
""",
    "event storm": """
def test_it(sim_faults, vm_factory):
    sim_faults(EventStorm(500, "RTC_CHANGE", {"offset": 1}))
    vm = vm_factory()
    since = vm.qmp.events.last
    assert vm.qmp.execute("query-status")["running"]
    stormy = vm.qmp.events.since(0, "RTC_CHANGE")
    assert len(stormy) == 500
    assert [event.seq for event in stormy] == list(range(stormy[0].seq, stormy[0].seq + 500))
""",
    "disconnect": """
def test_it(sim_faults, vm_factory):
    sim_faults(DisconnectAfter(1))
    vm = vm_factory()
    vm.qmp.execute("query-name")
    with pytest.raises(QmpDisconnected) as caught:
        vm.qmp.execute("query-name")
    assert caught.value.status is None
    assert vm.pid is not None
    vm.kill()
""",
    "refusal to unplug": """
def test_it(sim_faults, vm_factory):
    sim_faults(GuestModel("cooperative"), RefuseUnplug(("rng1",)))
    vm = vm_factory(template="tiny")
    stays, goes = vm.hotplug(RngSpec()), vm.hotplug(RngSpec())
    assert stays.id == "rng1"
    goes.unplug()
    with pytest.raises(UnplugRejected):
        stays.unplug()
    assert vm.devices == (stays,)
""",
    "a guest that is not there": """
def test_it(sim_faults, vm_factory):
    sim_faults(GuestModel("absent"))
    vm = vm_factory(template="tiny")
    device = vm.hotplug(RngSpec())
    with pytest.raises(UnplugTimeout):
        device.unplug(timeout=0.2)
    assert vm.devices == (device,)
""",
    "one of two": """
def test_it(sim_faults, vm_factory):
    sim_faults(CrashAtLaunch(), vm="bad")
    assert vm_factory("good").state == "running"
    with pytest.raises(LaunchError):
        vm_factory("bad")
def test_the_next_test_has_none(vm_factory):
    assert vm_factory("bad").state == "running"
""",
    "nonsense": """
def test_it(sim_faults):
    with pytest.raises(SpecError):
        sim_faults(SlowReplies(1), SlowReplies(2))
    with pytest.raises(SpecError):
        sim_faults("crash")
""",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_user_sees_of(pytester, run, remains, fault):
    pytester.makepyfile(HEAD + FAULTS[fault])
    result = run("--qemu-dry-run")
    assert result.parseoutcomes().keys() <= {"passed"}, result.stdout.str()
    assert remains.wait_until_gone()


def test_a_real_qemu_cannot_be_asked_to_fail(pytester, run):
    pytester.makepyfile(
        HEAD
        + "def test_it(sim_faults):\n"
        + "    with pytest.raises(NeedsSimulator):\n        sim_faults(CrashAfter(1))\n"
        + "def test_uncaught(sim_faults, vm):\n    sim_faults(CrashAfter(1))\n"
    )
    result = run("--qemu-real")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*NeedsSimulator*"])
