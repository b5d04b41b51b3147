"""Bridges and TAPs: real devices of the host, each time in a network namespace of its own."""

import json
import os
import signal
import sys

import pytest

ALONE = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
REAL = "--qemu-network-dry-run=no"


@pytest.fixture
def in_namespace(pytester, run):
    """Run pytest where it may make network devices and nobody else sees them; ``first`` runs there before."""

    def start(*args, first="true"):
        line = f'{first}; "$@"; status=$?; ip -o link | grep -v " lo:"; exit $status'
        words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:asyncio", *args]
        return pytester.run(*ALONE, "sh", "-c", line, "sh", *words, timeout=120)

    return start


TALK = """
import socket
import subprocess

import pytest

from pytest_qemuvm import NicSpec

def devices():
    return {name for _, name in socket.if_nameindex()} - {"lo"}

@pytest.mark.parametrize("kind", ["bridge", "tap"])
def test_host_and_guests_reach_each_other(kind, network_factory, vm_factory, coherence, qemuvm):
    assert qemuvm.network_mode == "real"
    net = network_factory("net", kind=kind)
    one = vm_factory("one", nics=[net])
    two = vm_factory("two", nics=[net])
    net.wait_all_up()
    assert all(len(name) <= 15 and name.startswith(qemuvm.tag) for name in devices())
    assert len(devices()) == (3 if kind == "bridge" else 2)
    for vm in (one, two):
        vm.run("echo hello > /root/index.html; httpd -p 80 -h /root")
        with socket.create_connection((vm.ip, 80), timeout=20) as connection:
            connection.sendall(b"GET /index.html HTTP/1.0\\r\\n\\r\\n")
            assert b"200 OK" in connection.recv(4096)
    assert one.run(f"ping -c 1 -W 1 {two.ip}", check=False).ok == (kind == "bridge")
    with one.faults.link_down():
        assert one.run("cat /sys/class/net/eth0/carrier").stdout == "0\\n"
    assert coherence.check() == []
    one.restart()
    net.wait_all_up()
    with two.hotplug(NicSpec(network=net)):
        assert len(devices()) == (4 if kind == "bridge" else 3)
    one.delete()
    assert len(devices()) == (2 if kind == "bridge" else 1)

def test_a_bridge_of_a_chosen_name(network_factory, vm_factory):
    net = network_factory(kind="bridge", device="br-mine", addressing=False)
    vm_factory(template="bare", nics=[net])
    assert "br-mine" in devices()
    shown = subprocess.run(["ip", "addr", "show", "br-mine"], capture_output=True, text=True)
    assert "inet " not in shown.stdout

def test_nothing_is_left():
    assert devices() == set()
"""


def test_host_and_guests_reach_each_other(pytester, in_namespace):
    pytester.makepyfile(TALK)
    result = in_namespace(REAL, "--qemu-real")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*networks real*"])
    assert "pass" in result.outlines[-1]


BAD = """
import socket

import pytest

from pytest_qemuvm.errors import CapabilityError, NetworkExists, SpecError

pytestmark = pytest.mark.qemuvm(template="bare")

def test_somebody_elses_device(network_factory, qemuvm):
    with pytest.raises(NetworkExists):
        network_factory(kind="bridge", device="theirs")
    assert qemuvm.networks() == []
    assert "theirs" in {name for _, name in socket.if_nameindex()}

@pytest.mark.parametrize("device", ["", "a" * 16, "a/b", "a b", 7])
def test_no_name_for_a_device(network_factory, device):
    with pytest.raises(SpecError):
        network_factory(kind="bridge", device=device)

def test_a_device_for_a_network_that_has_none(network_factory):
    with pytest.raises(SpecError):
        network_factory(kind="segment", device="br0")

def test_no_faults_of_frames(network_factory, vm_factory):
    net = network_factory(kind="bridge")
    vm = vm_factory(nics=[net])
    with pytest.raises(SpecError):
        net.impair(loss=0.5)

def test_the_hosts_own_subnets_are_left_alone(network_factory):
    assert network_factory(kind="bridge").subnet == "10.77.1.0/24"
"""


def test_what_cannot_be(pytester, in_namespace):
    pytester.makepyfile(BAD)
    first = "ip link add theirs type bridge; ip addr add 10.77.0.1/24 dev theirs; ip link set theirs up"
    result = in_namespace(REAL, "--qemu-real", first=first)
    result.assert_outcomes(passed=9)
    assert "theirs" in result.outlines[-1]


WITHOUT = """
import pytest

from pytest_qemuvm.errors import CapabilityError

@pytest.mark.parametrize("kind", ["bridge", "tap"])
def test_it(kind, network_factory, qemuvm):
    with pytest.raises(CapabilityError):
        network_factory(kind=kind)
    assert qemuvm.networks() == []
"""


def test_without_privileges(pytester, run):
    pytester.makepyfile(WITHOUT)
    if os.geteuid() != 0:
        run(REAL, "--qemu-real").assert_outcomes(passed=2)
        return
    words = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", sys.executable, "-m", "pytest"]
    result = pytester.run(*words, "-p", "no:cacheprovider", REAL, "--qemu-real", timeout=120)
    result.assert_outcomes(passed=2)


DRY = """
import socket
import warnings

import pytest

pytestmark = pytest.mark.qemuvm(template="bare")

@pytest.mark.parametrize("kind", ["bridge", "tap"])
def test_it(kind, network_factory, vm_factory, qemuvm):
    assert qemuvm.network_mode == "dry-run"
    before = socket.if_nameindex()
    net = network_factory("lab", kind=kind)
    vm = vm_factory(nics=[net])
    assert '"type":"user"' in " ".join(vm.argv)
    assert vm.ip == "10.77.0.15"
    assert socket.if_nameindex() == before
"""


@pytest.mark.parametrize("mode", ["--qemu-real", "--qemu-dry-run"])
def test_in_a_dry_run_they_are_user_mode_networking_and_say_so(pytester, run, mode):
    pytester.makepyfile(DRY)
    result = run(mode)
    result.assert_outcomes(passed=2, warnings=2)
    result.stdout.fnmatch_lines(["*QemuVMWarning: network 'lab' is user-mode networking and no bridge*"])


def test_a_plan_shows_what_would_be_done(pytester, run):
    pytester.makepyfile(test_dry=DRY)
    run("--qemu-dry-run", "--qemu-plan=plan.json", "-k", "bridge").assert_outcomes(passed=1, warnings=1)
    plans = json.loads((pytester.path / "plan.json").read_text())
    ((plan,),) = plans.values()
    commands = [" ".join(words) for words in plan["nics"][0]["link"]["commands"]]
    assert commands[0] == "ip link add name <tag>00 type bridge stp_state 0 forward_delay 0"
    assert "ip addr add 10.77.0.1/24 dev <tag>00" in commands
    assert "ip link set dev <tag>01 master <tag>00" in commands


KILLED = """
import json
import os
import signal

def test_it(network_factory, vm_factory):
    net = network_factory(kind="bridge")
    vm_factory(template="bare", nics=[net])
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_reaper_removes_them(pytester, in_namespace):
    pytester.makepyfile(KILLED)
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", REAL, "--qemu-real"]
    look = 'ip -o link | grep -v " lo:"'
    # It reads from a pipe to which nobody writes: a second's wait, at most nine times.
    wait = f"for n in 1 2 3 4 5 6 7 8 9; do {look} || exit 0; read -t 1 -r _; done <>fifo; exit 1"
    line = f'"$@"; echo "ended with $?"; {look} >before; {wait}'
    os.mkfifo(pytester.path / "fifo")
    result = pytester.run(*ALONE, "bash", "-c", line, "bash", *words, timeout=60)
    assert f"ended with {128 + signal.SIGKILL}" in "\n".join(result.outlines)
    assert "qv-" in (pytester.path / "before").read_text()
    assert result.ret == 0


NEEDED = """
import pytest

@pytest.mark.qemuvm(template="bare", needs="net-admin")
def test_it(network_factory, vm_factory):
    vm = vm_factory(nics=[network_factory(kind="bridge")])
    assert '"type":"tap"' in " ".join(vm.argv)
"""


def test_who_needs_them_is_skipped_where_they_are_a_dry_run(pytester, run, in_namespace):
    pytester.makepyfile(NEEDED)
    run("--qemu-real").assert_outcomes(skipped=1)
    in_namespace(REAL, "--qemu-real").assert_outcomes(passed=1)
