"""The warm pool: what it hands out is as good as any clone; what waits is nobody's, and accounted for."""

import os
import signal
import threading
import time

import psutil
import pytest

from pytest_qemuvm import DiskSpec, NicSpec
from pytest_qemuvm.errors import QemuVMWarning, VMNotFound
from pytest_qemuvm.host.capabilities import discover
from pytest_qemuvm.host.lookup import find_vm
from pytest_qemuvm.host.paths import cache_dir, sessions_root
from pytest_qemuvm.host.sessions import look
from pytest_qemuvm.machine.harness import Harness
from pytest_qemuvm.machine.pool import POOL
from pytest_qemuvm.qmp import connect
from pytest_qemuvm.spec.settings import resolve
from pytest_qemuvm.spec.vm import VMSpec

SECONDS = 120
TINY = {"template": "tiny"}


@pytest.fixture
def vm_spec():
    return TINY


@pytest.fixture
def pool(qemuvm, monkeypatch):
    """The session's pool with room for one, on a host that is never busy."""
    monkeypatch.setattr(qemuvm.pool, "size", 1)
    monkeypatch.setattr(qemuvm.pool, "spare", lambda _pause: True)
    monkeypatch.setattr(qemuvm.pool, "_given_up", None)
    qemuvm.pool.clear()
    yield qemuvm.pool
    qemuvm.pool.clear()
    assert waiting(qemuvm) == []


def waiting(qemuvm):
    return qemuvm.owned_by(POOL)


@pytest.fixture
def filled(pool, vm_factory, qemuvm):
    """The one VM that waits in the pool, and the one that it was made after."""
    first = vm_factory()
    assert pool.settle(SECONDS)
    (ready,) = waiting(qemuvm)
    return ready, first


def test_the_next_equal_one_is_the_one_that_waited(filled, vm_factory, qemuvm, request):
    ready, first = filled
    pid = ready.pid
    qemuvm.live_templates.take_starts()
    vm = vm_factory()
    assert vm is ready
    assert (vm.pid, vm.state, vm.record.state, vm.record.starts) == (pid, "running", "running", 1)
    assert (vm.started_as, vm.from_pool, first.from_pool) == ("clone", True, False)
    assert qemuvm.live_templates.take_starts() == {"clone": 1, "pooled": 1}
    assert qemuvm.owned_by(request.node.nodeid) == [first, vm]
    assert qemuvm.vm(vm.name) is vm
    assert vm in qemuvm.vms("running")
    assert vm.run_dir.name == vm.name
    assert vm.run("hostname").stdout == f"{vm.name}\n"
    with connect(vm.name) as monitor:
        assert monitor.execute("query-name")["name"].startswith(f"{vm.name}@")
    said = {line["nodeid"] for line in qemuvm.audited(vm.name)}
    assert said == {POOL, request.node.nodeid}
    vm.reset()
    vm.stop()
    assert vm.stopped_by == "powerdown"
    vm.start()
    assert vm.started_as == "cold"


def test_it_has_everything_of_its_own(pool, vm_factory):
    vms = []
    for _ in range(3):
        vms.append(vm_factory(nics=[NicSpec()], disks=[DiskSpec("64M")]))
        assert pool.settle(SECONDS)
    assert [vm.from_pool for vm in vms] == [False, True, True]
    for vm in vms:
        vm.run(f"echo {vm.name} >/root/mine; echo {vm.name} >/dev/vda; sync")
    told = "hostname; cat /root/mine; head -n 1 /dev/vda; cat /sys/class/net/eth0/address /etc/machine-id"
    rows = [vm.run(f"{told}; head -c 16 /dev/urandom | sha256sum").stdout.split() for vm in vms]
    assert [row[:4] for row in rows] == [[vm.name] * 3 + [vm.nics[0].mac] for vm in vms]
    assert len({row[4] for row in rows}) == len({row[5] for row in rows}) == 3


# Networks


@pytest.fixture
def waited(pool, network_factory, vm_factory, qemuvm):
    """What waits after a VM on a segment has come, and gone with its segment."""
    lan = network_factory("lan")
    first = vm_factory(nics=[lan])
    assert pool.settle(SECONDS)
    (ready,) = waiting(qemuvm)
    assert lan.vms == (first,)
    first.delete()
    lan.delete()
    return ready


def test_one_that_waits_comes_into_the_next_network_like_the_last(waited, network_factory, vm_factory):
    lan = network_factory("lan")
    vm = vm_factory(nics=[lan])
    assert vm is waited
    assert lan.vms == (vm,)
    other = vm_factory("other", nics=[lan])
    lan.wait_all_up()
    for one, another in ((vm, other), (other, vm)):
        one.run(f"ping -c 1 -W 5 {another.ip} && ping -c 1 -W 5 {another.name}")
    with lan.partition([vm], [other]):
        assert not other.run(f"ping -c 1 -W 1 {vm.ip}", check=False).ok
    for begin_anew in (vm.reset, vm.restart):
        begin_anew()
        lan.wait_all_up()
        other.run(f"ping -c 1 -W 5 {vm.ip}")


def test_one_that_waits_for_another_network_goes(waited, pool, network_factory, vm_factory, qemuvm):
    wide = network_factory("lan", subnet="10.9.0.0/16")
    first = vm_factory(nics=[wide])
    assert first is not waited
    assert first.ip.startswith("10.9.")
    assert pool.settle(SECONDS)
    (ready,) = waiting(qemuvm)
    assert ready.ip.startswith("10.9.")
    assert not waited.run_dir.exists()


def test_it_waits_on_where_its_address_is_another_ones(pool, network_factory, vm_factory, qemuvm):
    lan = network_factory("lan")
    first = vm_factory(nics=[lan])
    assert pool.settle(SECONDS)
    (ready,) = waiting(qemuvm)
    assert ready.ip == first.ip
    second = vm_factory(nics=[lan])
    assert second is not ready
    assert second.ip != first.ip
    assert waiting(qemuvm) == [ready]


def test_several_that_wait_have_addresses_of_their_own_and_hear_nobody(
    pool, network_factory, vm_factory, qemuvm, monkeypatch
):
    monkeypatch.setattr(pool, "size", 2)
    lan = network_factory("lan")
    first = vm_factory(nics=[lan])
    assert pool.settle(SECONDS)
    ready = waiting(qemuvm)
    assert len({vm.ip for vm in ready}) == 2
    assert lan.vms == (first,)
    first.delete()
    lan.delete()
    lan = network_factory("lan")
    vms = [vm_factory(nics=[lan]) for _ in ready]
    assert vms == ready
    for vm in vms:
        # One that had heard the other would know its hardware address.
        assert vm.run("ip neigh show nud reachable").stdout == ""
    lan.wait_all_up()
    vms[0].run(f"ping -c 1 -W 5 {vms[1].ip}")


@pytest.mark.parametrize(
    "chosen", [{"ip": "10.77.0.99"}, {"mac": "52:54:00:12:34:56"}], ids=lambda chosen: next(iter(chosen))
)
def test_nobody_is_prepared_with_an_address_that_somebody_chose(
    pool, network_factory, vm_factory, qemuvm, chosen
):
    lan = network_factory("lan")
    vm_factory(nics=[NicSpec(network=lan, **chosen)])
    assert pool.settle(SECONDS)
    assert waiting(qemuvm) == []


def test_nobody_is_prepared_for_user_mode_networking_of_a_network(pool, network_factory, vm_factory, qemuvm):
    vm_factory(nics=[network_factory("out", kind="user")])
    assert pool.settle(SECONDS)
    assert waiting(qemuvm) == []


def test_an_address_that_another_thread_has_just_taken(
    waited, pool, network_factory, vm_factory, qemuvm, monkeypatch
):
    lan = network_factory("lan")
    vm_factory("faster", nics=[lan])
    monkeypatch.setattr(qemuvm._networks, "suits", lambda _vm: True)
    vm = vm_factory(nics=[lan])
    assert vm is not waited
    assert vm.ip != waited.ip
    assert pool.settle(SECONDS)
    assert waited not in waiting(qemuvm)


def test_its_clock_is_right_although_it_stood(filled, vm_factory):
    ready, _ = filled
    stood = time.time()
    assert ready.state == "paused"
    vm = vm_factory()
    assert stood - 2 <= int(vm.run("date +%s").stdout) <= time.time() + 2


def test_no_wait_takes_the_making_of_a_clone_for_what_a_test_did(filled, vm_factory):
    for vm in (filled[1], vm_factory()):
        since = vm.qmp.events.last
        with vm.qmp.expect_event("STOP"):
            vm.qmp.execute("stop")
        vm.qmp.execute("cont")
        assert vm.qmp.wait_event("RESUME", timeout=SECONDS).seq > since


def test_while_it_waits_it_is_nobodys_and_accounted_for(filled, qemuvm, coherence):
    ready, first = filled
    assert ready.record.state == "paused"
    assert first in qemuvm.vms()
    assert ready not in qemuvm.vms()
    with pytest.raises(VMNotFound):
        qemuvm.vm(ready.name)
    with pytest.raises(VMNotFound):
        find_vm(ready.name)
    (seen,) = [seen for seen in look(sessions_root()) if seen.tag == qemuvm.tag]
    assert {vm.name: (vm.state, vm.owner, vm.test) for vm in seen.vms if vm.pid == ready.pid} == {
        ready.name: ("pooled", POOL, None)
    }
    assert coherence.check() == []


def test_one_that_nobody_accounts_for_is_found(filled, qemuvm, coherence, monkeypatch):
    ready, _ = filled
    with monkeypatch.context() as patch:
        patch.delitem(qemuvm._register._vms, ready.name)
        found = {(finding.kind, finding.resource) for finding in coherence.check()}
    assert ("orphan_process", f"process {ready.pid}") in found
    assert coherence.check() == []


@pytest.mark.parametrize(
    ("name", "spec"),
    [("another", {}), (None, {"memory": "192M"}), (None, {"start": False}), (None, {"start": "cold"})],
    ids=["name", "spec", "unstarted", "cold"],
)
def test_who_wants_another_thing_gets_it_and_what_waits_stays_or_goes(
    filled, pool, vm_factory, qemuvm, name, spec
):
    ready, _ = filled
    process = psutil.Process(ready.pid)
    vm = vm_factory(name, **spec)
    assert vm is not ready
    assert not vm.from_pool
    assert pool.settle(SECONDS)
    (now,) = waiting(qemuvm)
    if "memory" in spec:
        assert not process.is_running()
        assert not ready.run_dir.exists()
        assert now.spec == vm.spec
    else:
        assert now is ready


def test_a_template_of_the_tests_is_pooled_and_can_be_deleted(pool, vm_factory, template_factory, qemuvm):
    db = template_factory("db", setup="echo made >/root/log")
    first = vm_factory(template=db)
    assert pool.settle(SECONDS)
    (ready,) = waiting(qemuvm)
    vm = vm_factory(template=db)
    assert vm is ready
    assert vm.run("cat /root/log").stdout == "made\n"
    assert pool.settle(SECONDS)
    process = psutil.Process(waiting(qemuvm)[0].pid)
    first.delete()
    vm.delete()
    db.delete()
    assert pool.settle(SECONDS)
    assert waiting(qemuvm) == []
    assert not process.is_running()


def test_a_name_that_is_asked_for_is_not_kept_from_whoever_asks(filled, vm_factory):
    ready, _ = filled
    vm = vm_factory(ready.name)
    assert vm is not ready
    assert vm.run("hostname").stdout == f"{ready.name}\n"


def test_nothing_waits_with_an_image_of_the_users_open(pool, vm_factory, qemuvm, disk_factory, tmp_path):
    image = tmp_path / "mine.raw"
    image.write_bytes(bytes(1 << 20))
    vm = vm_factory(disks=[DiskSpec(path=image, format="raw")])
    assert vm.started_as == "clone"
    assert pool.settle(SECONDS)
    assert waiting(qemuvm) == []


def test_one_that_was_killed_is_found_and_not_handed_out(filled, vm_factory, coherence, qemuvm):
    ready, _ = filled
    ready.live.process.kill()
    found = coherence.check()
    assert [(finding.kind, finding.vm) for finding in found] == [("vm_state_mismatch", ready.name)]
    with pytest.warns(QemuVMWarning, match=ready.name):
        vm = vm_factory()
    assert vm is not ready
    assert vm.run("echo there").ok
    assert coherence.check() == []


@pytest.mark.qemuvm_expect("vm_state_mismatch")
def test_one_that_was_killed_is_a_finding_of_the_test_then(filled):
    filled[0].live.process.kill()


def test_one_that_dies_in_being_handed_out_is_replaced(filled, pool, qemuvm, request):
    ready, first = filled
    taken = qemuvm._from_pool(first.spec, request.node.nodeid)
    assert taken is ready
    taken.live.process.kill()
    with pytest.warns(QemuVMWarning, match="starts anew"):
        taken.start()
    assert (taken.state, taken.started_as, taken.from_pool) == ("running", "clone", False)
    assert taken.run("hostname").stdout == f"{taken.name}\n"


def test_what_goes_wrong_in_the_pool_is_told_and_not_tried_again(pool, vm_factory, qemuvm, monkeypatch):
    asked = []

    class Refusing:
        def make_vm(self, *_):
            asked.append(1)
            raise OSError("no room")

    monkeypatch.setattr(pool, "_session", Refusing())
    vm_factory()
    assert pool.settle(SECONDS)
    with pytest.warns(QemuVMWarning, match="no room"):
        vm_factory()
    assert pool.settle(SECONDS)
    assert asked == [1]
    assert vm_factory().run("echo there").ok


def test_on_a_busy_host_nothing_is_prepared(pool, vm_factory, qemuvm, monkeypatch):
    measured = threading.Semaphore(0)

    def busy(pause):
        pause(0.01)
        measured.release()
        return False

    monkeypatch.setattr(pool, "spare", busy)
    vm_factory()
    for _ in range(3):
        assert measured.acquire(timeout=SECONDS)
    assert waiting(qemuvm) == []
    assert not vm_factory().from_pool


@pytest.fixture
def own_harness():
    """A harness of the test's own, with a pool of two."""
    settings = resolve({"real": True, "pool": "2"}, {}, {})
    harness = Harness(settings, discover(settings, cache_dir()), cache_dir(), lambda _line: None)
    harness.pool.spare = lambda _pause: True
    yield harness
    harness.close()


def test_the_end_of_a_session_ends_its_pool(own_harness):
    own_harness.create_started(None, VMSpec(template="tiny"), "a test")
    assert own_harness.pool.settle(SECONDS)
    ready = waiting(own_harness)
    assert len(ready) == 2
    processes = [psutil.Process(vm.pid) for vm in ready]
    own_harness.close()
    assert not own_harness.root.exists()
    assert not any(process.is_running() for process in processes)
    assert not own_harness.pool._thread.is_alive()


def test_the_end_ends_what_the_pool_has_lost_sight_of_too(own_harness):
    own_harness.create_started(None, VMSpec(template="tiny"), "a test")
    assert own_harness.pool.settle(SECONDS)
    processes = [psutil.Process(vm.pid) for vm in waiting(own_harness)]
    own_harness.pool._ready.clear()
    own_harness.pool.size = 0
    own_harness.close()
    assert len(processes) == 2
    assert not any(process.is_running() for process in processes)


@pytest.mark.parametrize("how", ["running", "hung"])
def test_the_end_does_not_wait_for_what_is_being_prepared(own_harness, monkeypatch, how):
    reached, go = threading.Event(), threading.Event()
    seen = []
    from pytest_qemuvm.machine import starting

    load = starting.load_state

    def stalled(live, state, **how_much):
        if threading.current_thread().name == "qemuvm-pool":
            seen.append(live.process)
            if how == "hung":
                os.kill(live.process.pid, signal.SIGSTOP)
            reached.set()
            assert go.wait(SECONDS)
        load(live, state, **how_much)

    monkeypatch.setattr(starting, "load_state", stalled)
    own_harness.create_started(None, VMSpec(template="tiny"), "a test")
    assert reached.wait(SECONDS)
    closing = threading.Thread(target=own_harness.close)
    closing.start()
    go.set()
    closing.join(SECONDS)
    assert not closing.is_alive()
    assert not own_harness.root.exists()
    assert all(process.status() is not None for process in seen)
    assert not own_harness.pool._thread.is_alive()


def test_without_the_option_there_is_no_pool(vm_factory, qemuvm):
    vm_factory()
    vm_factory()
    assert qemuvm.settings.pool == qemuvm.pool.size == 0
    assert qemuvm.pool.settle(0)
    assert waiting(qemuvm) == []


def test_whatever_the_pool_does_a_check_finds_nothing(pool, vm_factory, coherence, monkeypatch):
    monkeypatch.setattr(pool, "size", 2)
    vm_factory()
    coherence.start(interval=0.001)
    for memory in ("256M", "192M", "192M", "256M", "256M"):
        vm = vm_factory(memory=memory)
        assert coherence.check() == []
        vm.delete()
        assert coherence.check() == []
    pool.clear()
    coherence.stop()
    assert coherence.found == []
