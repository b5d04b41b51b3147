"""Faults of networks: who hears whom, and what becomes of frames on their way."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_qemuvm import NicSpec
from pytest_qemuvm.errors import NotConnected, NotRunning, SpecError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_qemuvm import VM
    from pytest_qemuvm.machine.faults.chaos import Chaos
    from pytest_qemuvm.machine.harness import Harness
    from pytest_qemuvm.machine.networks.network import Network
    from pytest_qemuvm.machine.observer import Observer
    from pytest_qemuvm.plugin.fixtures import NetworkFactory, VMFactory


@pytest.fixture
def lan(network_factory: NetworkFactory) -> Network:
    return network_factory("lan")


@pytest.fixture
def three(vm_factory: VMFactory, lan: Network) -> list[VM]:
    vms = [vm_factory(name, start=False, nics=[lan]) for name in ("a", "b", "c")]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda vm: vm.start(), vms))
    lan.wait_all_up()
    return vms


def comes_through(source: VM, target: VM) -> bool:
    """Return whether pings are answered in the end: who did not find another asks again slowly."""
    return source.wait_until_succeeds(f"ping -c 1 -W 1 {target.ip}", timeout=20).ok


def heard(source: VM, target: VM, count: int = 1) -> int:
    """Return how many of so many pings, sent quickly, were answered."""
    said = source.run(f"ping -c {count} -i 0.02 -W 1 {target.ip}", check=False).stdout
    found = re.search(r"(\d+) packets received", said)
    assert found is not None, said
    return int(found[1])


def round_trip(source: VM, target: VM, count: int) -> list[float]:
    """Return the milliseconds that pings took."""
    said = source.run(f"ping -c {count} -i 0.01 -W 2 {target.ip}").stdout
    return [float(word) for word in re.findall(r"time=([\d.]+) ms", said)]


@pytest.mark.qemuvm(needs="guest")
class TestOnTheWire:
    def test_a_partition_parts_and_heals(self, three: list[VM], lan: Network, qemuvm: Harness) -> None:
        a, b, c = three
        with lan.partition(a, [b, c]) as fault:
            assert fault.active
            assert (heard(a, b), heard(c, a)) == (0, 0)
            assert heard(b, c) == 1
        assert comes_through(a, b)
        assert not qemuvm.faults.active()

    def test_one_side_alone_is_cut_off_from_all(self, three: list[VM], lan: Network) -> None:
        a, b, c = three
        lan.partition(b)
        assert (heard(a, b), heard(c, b), heard(a, c)) == (0, 0, 1)
        lan.heal()
        assert comes_through(a, b)

    def test_one_way(self, three: list[VM], lan: Network) -> None:
        a, b, _ = three
        b.run(f"arp -s {a.ip} {a.nics[0].mac}")
        with lan.one_way(a, b):
            assert heard(a, b) == 0
            # What b sends arrives all the same.
            before = int(a.run("cat /sys/class/net/eth0/statistics/rx_packets").stdout)
            assert heard(b, a, 3) == 0
            assert int(a.run("cat /sys/class/net/eth0/statistics/rx_packets").stdout) >= before + 3
        assert comes_through(a, b)

    def test_a_cable_is_pulled(self, three: list[VM], lan: Network) -> None:
        a, b, _ = three
        with b.faults.link_down():
            assert b.run("cat /sys/class/net/eth0/carrier").stdout == "0\n"
            assert heard(a, b) == 0
        assert b.run("cat /sys/class/net/eth0/carrier").stdout == "1\n"
        assert comes_through(a, b)

    def test_loss_and_delay_are_what_was_asked_for(self, three: list[VM], lan: Network) -> None:
        a, b, _ = three
        heard(a, b)
        with lan.impair(loss=0.3, seed=4, source=a, target=b):
            lost = 100 - heard(a, b, 100)
        assert 20 <= lost <= 40
        with lan.impair(delay=0.03):
            times = round_trip(a, b, 20)
        # Nothing is quicker than was asked for, by the guest's clock; how much slower is the host's affair.
        assert 59 <= min(times) < 90
        assert min(round_trip(a, b, 10)) < 60

    def test_faults_change_while_traffic_flows(self, three: list[VM], lan: Network) -> None:
        a, b, _ = three
        b.run("nc -l -p 7 -e cat > /dev/null 2>&1 &")
        b.wait_for_port(7)
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(a.run, f"dd if=/dev/zero bs=64k count=40 2>/dev/null | nc {b.ip} 7 | wc -c")
            with lan.impair(loss=0.02, delay=0.002, jitter=0.001, duplicate=0.05, reorder=0.05, seed=1):
                lan.partition(a, b).heal()
            assert sent.result(60).stdout.strip() == str(40 * 65536)

    def test_frames_are_captured(self, three: list[VM], lan: Network, tmp_path: Path) -> None:
        a, b, c = three
        with lan.capture(tmp_path / "all.pcap"), lan.capture(tmp_path / "c.pcap", c):
            heard(a, b, 3)
        captured = (tmp_path / "all.pcap").read_bytes()
        assert captured[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1")
        ends = bytes(map(int, a.ip.split("."))) + bytes(map(int, b.ip.split(".")))
        assert captured.count(ends) >= 3
        assert ends not in (tmp_path / "c.pcap").read_bytes()

    def test_what_passes_one_nic_is_captured(
        self, three: list[VM], lan: Network, coherence: Observer, tmp_path: Path
    ) -> None:
        a, b, _ = three
        extra = a.hotplug(NicSpec())
        with a.capture(tmp_path / "a.pcap"), a.capture(nic=extra) as other:
            assert coherence.check() == []
            heard(a, b, 2)
            extra.unplug()
        assert other.path.parent == a.run_dir
        ends = bytes(map(int, a.ip.split("."))) + bytes(map(int, b.ip.split(".")))
        assert (tmp_path / "a.pcap").read_bytes().count(ends) >= 2
        assert ends not in other.path.read_bytes()
        assert coherence.check() == []
        with pytest.raises(SpecError):
            a.capture(tmp_path / "nowhere" / "a.pcap")
        with pytest.raises(SpecError):
            a.capture(nic=3)

    def test_a_vm_that_comes_back_after_a_fault(self, three: list[VM], lan: Network) -> None:
        a, b, _ = three
        with lan.partition(a, b):
            b.restart()
            lan.wait_all_up()
            assert heard(a, b) == 0
        assert comes_through(a, b)


class TestBadInput:
    pytestmark = pytest.mark.qemuvm(template="bare")

    @pytest.fixture
    def pair(self, vm_factory: VMFactory, lan: Network) -> tuple[VM, VM]:
        return vm_factory("a", nics=[lan]), vm_factory("b", nics=[lan])

    def test_partitions_that_cannot_be(
        self, pair: tuple[VM, VM], lan: Network, vm_factory: VMFactory
    ) -> None:
        a, b = pair
        stranger = vm_factory("stranger")
        for sides in ((), (a, a), ([a, a], b), ([],), ([a, b],), (a, 7)):
            with pytest.raises((SpecError, NotConnected)):
                lan.partition(*sides)  # type: ignore[arg-type]
        with pytest.raises(NotConnected, match="stranger"):
            lan.partition(a, stranger)
        with pytest.raises(SpecError, match="from itself"):
            lan.one_way(a, a)
        with pytest.raises(NotConnected):
            _ = stranger.ip

    @pytest.mark.parametrize(
        "keywords",
        [
            {"loss": 100},
            {"loss": -0.1},
            {"loss": float("nan")},
            {"delay": -1},
            {"delay": "1"},
            {"delay": 0.1, "jitter": 0.2},
            {"reorder": 0.1},
            {"bandwidth": 0},
            {"bandwidth": "fast"},
            {"seed": "x"},
        ],
        ids=str,
    )
    def test_impairments_that_cannot_be(
        self, pair: tuple[VM, VM], lan: Network, qemuvm: Harness, keywords: dict[str, object]
    ) -> None:
        with pytest.raises(SpecError):
            lan.impair(**keywords)  # type: ignore[arg-type]
        assert not qemuvm.faults.active()

    def test_a_seed_is_told_whatever_it_is(self, pair: tuple[VM, VM], lan: Network) -> None:
        assert pair[0] in lan.vms
        with lan.impair(loss=0.1, seed=0) as fault:
            assert fault.what.endswith("loss=0.1, seed=0")

    def test_nics_that_are_not_there(self, pair: tuple[VM, VM], vm_factory: VMFactory) -> None:
        for nic in (1, -1, True, "nic0", None):
            with pytest.raises(SpecError):
                pair[0].faults.link_down(nic)  # type: ignore[arg-type]
        with pytest.raises(NotRunning):
            vm_factory("off", start=False, nics=[NicSpec()]).faults.link_down()

    def test_a_network_without_frames_to_touch(
        self, network_factory: NetworkFactory, vm_factory: VMFactory
    ) -> None:
        alone = network_factory(kind="user")
        vm = vm_factory(nics=[NicSpec(network=alone, forward=(22,))])
        assert vm.ip == "10.0.2.15"
        assert vm.port(22) > 0
        with pytest.raises(SpecError, match="segment"):
            alone.impair(loss=0.1)

    def test_a_link_that_is_down_goes_with_its_nic(
        self, vm_factory: VMFactory, lan: Network, qemuvm: Harness
    ) -> None:
        vm = vm_factory()
        nic = vm.hotplug(NicSpec(network=lan))
        fault = vm.faults.link_down(nic)
        nic.unplug()
        fault.heal()
        vm.hotplug(NicSpec(network=lan))
        vm.faults.link_down()
        vm.stop()
        assert not qemuvm.faults.active()


@pytest.mark.qemuvm(template="bare")
def test_networks_fail_by_chance_and_again_in_the_same_way(
    vm_factory: VMFactory, lan: Network, chaos: Chaos, qemuvm: Harness, request: pytest.FixtureRequest
) -> None:
    a, b = vm_factory("a", nics=[lan]), vm_factory("b", nics=[lan])
    faults = {
        "parted": partial(lan.partition, a, b),
        "lossy": partial(lan.impair, loss=0.5, seed=1),
        "pulled": a.faults.link_down,
    }
    turns = []
    for _ in range(2):
        run = chaos(faults, seed=3, interval=0.02, duration=0.2)
        run.wait()
        turns.append([turn.name for turn in run.turns])
    assert len(turns[0]) > 3
    assert turns[0] == turns[1]
    assert qemuvm.faults.active() == []
    done = [moment.text for moment in qemuvm.faults.timeline.of(request.node.nodeid)]
    assert any("partition of network 'lan': a | b" in text for text in done)
