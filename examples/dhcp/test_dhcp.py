"""A DHCP server in one machine serves another, on a wire on which nobody else hands out addresses."""

from pathlib import Path

import pytest

from pytest_qemuvm import NicSpec

KNOWN = "52:54:00:00:00:07"
"""The MAC address for which the server's configuration has an address."""


@pytest.fixture
def wire(network_factory):
    return network_factory("wire", addressing=False)


@pytest.fixture
def server(vm_factory, wire):
    vm = vm_factory("server", nics=[wire])
    vm.push(Path(__file__).with_name("udhcpd.conf"), "/etc/udhcpd.conf")
    vm.run("mkdir -p /var/lib/misc && touch /var/lib/misc/udhcpd.leases")
    vm.run("ip addr add 10.9.8.1/24 dev eth0 && udhcpd -S /etc/udhcpd.conf")
    return vm


@pytest.fixture
def client(vm_factory, wire):
    return vm_factory("client", nics=[NicSpec(network=wire, mac=KNOWN)])


def ask(client, tries=10):
    return client.run(f"udhcpc -i eth0 -n -q -t {tries} -T 1 -s /lib/qemuvm/dhcp", check=False, timeout=60)


@pytest.mark.usefixtures("server")
def test_a_machine_is_given_the_address_that_is_reserved_for_it(client, wire, tmp_path):
    with wire.capture(tmp_path / "dhcp.pcap"):
        assert ask(client).ok
    assert "inet 10.9.8.77/24" in client.run("ip address show eth0").stdout
    assert client.run("ip route show default").stdout.startswith("default via 10.9.8.1 ")
    # Option 53, of one byte, is the type of a message: discover, offer, request, acknowledgement.
    frames = (tmp_path / "dhcp.pcap").read_bytes()
    assert all(bytes([53, 1, kind]) in frames for kind in (1, 2, 3, 5))


def test_a_server_that_hears_and_is_not_heard(server, client, wire):
    with wire.one_way(server, client):
        assert not ask(client, tries=1).ok
    assert ask(client).ok
    assert client.run("ping -c 1 10.9.8.1").ok
