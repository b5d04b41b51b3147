"""Segments: Ethernets between the VMs of a test, without privileges. Real guests send real frames."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from pytest_qemuvm import NicSpec
from pytest_qemuvm.errors import (
    AddressInUse,
    NetworkExists,
    NetworkInUse,
    NetworkNotFound,
    NotConnected,
    SpecError,
    WaitTimeout,
)

if TYPE_CHECKING:
    from pytest_qemuvm import VM
    from pytest_qemuvm.machine.harness import Harness
    from pytest_qemuvm.machine.networks.network import Network
    from pytest_qemuvm.plugin.fixtures import NetworkFactory, VMFactory

GUEST = pytest.mark.qemuvm(needs="guest")


@pytest.fixture
def lan(network_factory: NetworkFactory) -> Network:
    return network_factory("lan")


def start(vm_factory: VMFactory, lan: Network, *names: str, **spec: object) -> list[VM]:
    vms = [vm_factory(name, start=False, nics=[lan], **spec) for name in names]
    with ThreadPoolExecutor(len(vms)) as pool:
        list(pool.map(lambda vm: vm.start(), vms))
    return vms


def reaches(source: VM, target: str) -> bool:
    return source.run(f"ping -c 1 -W 1 {target}", check=False).ok


@GUEST
class TestTalking:
    def test_vms_reach_each_other_by_address_and_by_name(self, vm_factory: VMFactory, lan: Network) -> None:
        one, two, three = start(vm_factory, lan, "one", "two", "three")
        lan.wait_all_up()
        assert {vm.started_as for vm in lan.vms} == {"clone"}
        assert len({vm.ip for vm in lan.vms}) == 3
        assert reaches(one, two.ip)
        assert reaches(two, "three")
        assert reaches(three, "one.lan.test")
        assert not one.run("ping -c 1 -W 1 nobody", check=False).ok

    def test_they_reach_each_other_when_they_boot_as_well(self, vm_factory: VMFactory, lan: Network) -> None:
        one, two = start(vm_factory, lan, "one", "two")
        one.restart()
        lan.wait_all_up()
        assert one.started_as == "cold"
        assert reaches(one, "two")
        assert reaches(two, "one")

    def test_two_segments_do_not_hear_each_other(
        self, vm_factory: VMFactory, network_factory: NetworkFactory
    ) -> None:
        left, right = network_factory("left"), network_factory("right")
        router = vm_factory("router", nics=[left, right])
        inside = vm_factory("inside", nics=[left])
        outside = vm_factory("outside", nics=[right])
        for network in (left, right):
            network.wait_all_up()
        assert reaches(inside, "router")
        assert reaches(router, "inside")
        assert reaches(router, "outside.right.test")
        assert reaches(router, "outside")
        assert not reaches(inside, "outside")
        assert reaches(outside, right.ip_of(router))
        inside.run(f"ip route add {right.subnet} via {left.ip_of(router)}")
        outside.run(f"ip route add {left.subnet} via {right.ip_of(router)}")
        assert not reaches(inside, outside.ip)
        router.run("echo 1 > /proc/sys/net/ipv4/ip_forward")
        assert reaches(inside, outside.ip)

    def test_a_nic_is_plugged_while_the_vm_runs(self, vm_factory: VMFactory, lan: Network) -> None:
        (one,) = start(vm_factory, lan, "one")
        late = vm_factory("late")
        with pytest.raises(NotConnected):
            _ = late.ip
        with late.hotplug(NicSpec(network=lan)) as nic:
            assert nic.ip is not None
            lan.wait_all_up()
            assert reaches(one, nic.ip)
            assert reaches(one, "late")
        assert not reaches(one, "late")
        assert [vm.name for vm in lan.vms] == ["one"]

    def test_a_chosen_address_and_a_subnet_of_ones_own(
        self, vm_factory: VMFactory, network_factory: NetworkFactory
    ) -> None:
        lan = network_factory(subnet="192.168.200.0/25")
        vm = vm_factory("fixed", nics=[NicSpec(network=lan, ip="192.168.200.99", mac="52:54:00:aa:bb:cc")])
        other = vm_factory("other", nics=[NicSpec(network=lan, model="e1000e")])
        lan.wait_all_up()
        assert vm.ip == "192.168.200.99"
        assert other.ip == "192.168.200.10"
        assert reaches(other, "fixed")
        assert "255.255.255.128" in vm.run("ifconfig eth0").stdout

    def test_a_dhcp_server_in_one_vm_serves_another(
        self, vm_factory: VMFactory, network_factory: NetworkFactory
    ) -> None:
        wire = network_factory("wire", addressing=False)
        server, client = start(vm_factory, wire, "server", "client")
        server.run("ip addr add 10.9.8.1/24 dev eth0")
        server.write_text(
            "/etc/udhcpd.conf",
            "start 10.9.8.50\nend 10.9.8.59\ninterface eth0\noption subnet 255.255.255.0\n",
        )
        server.run("mkdir -p /var/lib/misc; touch /var/lib/misc/udhcpd.leases; udhcpd -S /etc/udhcpd.conf")
        client.run("udhcpc -i eth0 -n -q -t 10 -T 1 -s /lib/qemuvm/dhcp", timeout=30)
        assert re.search(r"inet 10\.9\.8\.5\d/24", client.run("ip addr show eth0").stdout)
        assert reaches(client, "10.9.8.1")
        with pytest.raises(SpecError, match="no address to wait for"):
            wire.wait_all_up()

    def test_who_does_not_answer_is_named(self, vm_factory: VMFactory, lan: Network) -> None:
        one, two = start(vm_factory, lan, "one", "two")
        two.run("ip link set eth0 down")
        with pytest.raises(WaitTimeout, match="nic0 of two"):
            lan.wait_all_up(timeout=0.3)
        one.run(f"ip addr add {two.ip}/24 dev eth0")
        with pytest.raises(AddressInUse, match=str(one.nics[0].mac)):
            lan.wait_all_up()

    def test_on_user_mode_networking_the_guest_is_asked(
        self, vm_factory: VMFactory, network_factory: NetworkFactory
    ) -> None:
        alone = network_factory(kind="user", subnet="10.44.0.0/24")
        vm = vm_factory(nics=[alone])
        alone.wait_all_up()
        assert vm.ip == "10.44.0.15"

    def test_a_guest_that_asks_by_dhcp_is_given_the_same(self, vm_factory: VMFactory, lan: Network) -> None:
        one, _ = start(vm_factory, lan, "one", "two")
        one.run("ip addr flush dev eth0; rm /etc/resolv.conf")
        assert not reaches(one, "two")
        one.run("udhcpc -i eth0 -n -q -t 10 -T 1 -s /lib/qemuvm/dhcp", timeout=30)
        assert f"inet {one.ip}/24" in one.run("ip addr show eth0").stdout
        assert "default" not in one.run("ip route").stdout
        assert reaches(one, "two.lan.test")
        assert reaches(one, "two")

    def test_a_clone_of_a_vm_is_another_on_the_segment(self, vm_factory: VMFactory, lan: Network) -> None:
        (one,) = start(vm_factory, lan, "one")
        twin = one.clone("twin")
        lan.wait_all_up()
        assert twin.ip != one.ip
        assert reaches(one, "twin")
        assert reaches(twin, "one")

    def test_a_snapshot_comes_back_to_its_segment(self, vm_factory: VMFactory, lan: Network) -> None:
        one, two = start(vm_factory, lan, "one", "two")
        with one.hotplug(NicSpec(network=lan)) as nic:
            one.snapshot("before")
        one.restore("before")
        lan.wait_all_up()
        assert reaches(two, str(nic.ip))
        assert reaches(one, "two")


class TestBookkeeping:
    """What holds with any QEMU, and with none."""

    pytestmark = pytest.mark.qemuvm(template="bare")

    def test_networks_are_listed_and_found(self, qemuvm: Harness, network_factory: NetworkFactory) -> None:
        lan, other = network_factory("lan"), network_factory()
        assert qemuvm.networks() == [lan, other]
        assert qemuvm.network("lan") is lan
        assert lan.kind == "segment"
        assert lan.subnet != other.subnet
        with pytest.raises(NetworkNotFound):
            qemuvm.network("lam")
        with pytest.raises(NetworkExists):
            network_factory("lan")
        other.delete()
        other.delete()
        assert qemuvm.networks() == [lan]

    def test_vms_are_connected_and_leave(self, vm_factory: VMFactory, lan: Network) -> None:
        one = vm_factory("one", nics=[lan])
        two = vm_factory("two", nics=[NicSpec(network="lan", model="e1000e")], start=False)
        assert lan.vms == (one, two)
        assert [nic.network for nic in one.nics] == ["lan"]
        assert one.ip != two.ip
        with pytest.raises(NetworkInUse) as caught:
            lan.delete()
        assert caught.value.users == ("one", "two")
        one.stop()
        one.start()
        assert lan.vms == (one, two)
        one.delete()
        assert lan.vms == (two,)

    def test_a_nic_is_plugged_and_unplugged(self, vm_factory: VMFactory, lan: Network) -> None:
        vm = vm_factory()
        with vm.hotplug(NicSpec(network=lan)) as nic:
            assert lan.ip_of(vm) == nic.ip
        assert lan.vms == ()

    @pytest.mark.parametrize(
        "nic",
        [
            {"ip": "10.0.0.300"},
            {"ip": 7},
            {"ip": "10.1.1.1"},
            {"network": "lan", "ip": "8.8.8.8"},
            {"network": "lan", "forward": (22,)},
            {"network": "lan", "outward": True},
            {"network": "a b"},
        ],
        ids=str,
    )
    def test_a_nic_that_cannot_be(self, vm_factory: VMFactory, lan: Network, nic: dict[str, object]) -> None:
        with pytest.raises(SpecError):
            vm_factory("bad", nics=[NicSpec(**nic)], start=False)  # type: ignore[arg-type]
        assert lan.vms == ()

    def test_an_unknown_network(self, vm_factory: VMFactory, qemuvm: Harness) -> None:
        with pytest.raises(NetworkNotFound):
            vm_factory("bad", nics=[NicSpec(network="lam")])
        assert "bad" not in {vm.name for vm in qemuvm.vms()}

    def test_addresses_that_are_taken(self, vm_factory: VMFactory, lan: Network) -> None:
        one = vm_factory("one", nics=[NicSpec(network=lan, mac="52:54:00:00:00:01")], start=False)
        with pytest.raises(AddressInUse, match="nic0 of one"):
            vm_factory("two", nics=[NicSpec(network=lan, ip=one.ip)], start=False)
        with pytest.raises(AddressInUse, match="nic0 of one"):
            vm_factory("two", nics=[lan, NicSpec(network=lan, mac="52:54:00:00:00:01")], start=False)
        with pytest.raises(SpecError, match="the network's own"):
            vm_factory("two", nics=[NicSpec(network=lan, ip=one.ip.rpartition(".")[0] + ".1")], start=False)
        assert lan.vms == (one,)

    def test_a_vm_in_two_networks_of_one_subnet(
        self, vm_factory: VMFactory, network_factory: NetworkFactory
    ) -> None:
        same = [network_factory(subnet="10.5.0.0/16"), network_factory(subnet="10.5.6.0/24")]
        with pytest.raises(SpecError, match="the same addresses"):
            vm_factory(nics=same, start=False)
        assert [network.vms for network in same] == [(), ()]

    @pytest.mark.parametrize(
        "spec",
        [
            {"kind": "segmnt"},
            {"subnet": "10.0.0.1/24"},
            {"subnet": "10.0.0.0/30"},
            {"subnet": 10},
            {"outward": True},
            {"addressing": "no"},
            {"kind": "user", "addressing": False},
        ],
        ids=str,
    )
    def test_a_network_that_cannot_be(
        self, network_factory: NetworkFactory, qemuvm: Harness, spec: dict[str, object]
    ) -> None:
        with pytest.raises(SpecError):
            network_factory(**spec)  # type: ignore[arg-type]
        assert qemuvm.networks() == []
