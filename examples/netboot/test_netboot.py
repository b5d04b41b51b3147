"""A machine with neither disk nor kernel boots from the network, off a server in another machine."""

from pathlib import Path

import pytest

from pytest_qemuvm import NicSpec

HERE = Path(__file__).parent


@pytest.fixture
def wire(network_factory):
    return network_factory("wire", addressing=False)


@pytest.fixture
def boot_server(qemuvm, vm_factory, wire):
    files = qemuvm.netboot_files()
    vm = vm_factory("boot-server", nics=[wire])
    vm.run("mkdir -p /srv /var/lib/misc && touch /var/lib/misc/udhcpd.leases")
    vm.push(files.kernel, "/srv/vmlinuz")
    vm.push(files.initrd, "/srv/initrd")
    vm.write_text("/srv/boot.ipxe", (HERE / "boot.ipxe").read_text().format(append=files.append))
    vm.push(HERE / "udhcpd.conf", "/etc/udhcpd.conf")
    vm.run("ip addr add 10.9.0.1/24 dev eth0 && udhcpd -S -a 100 /etc/udhcpd.conf && httpd -h /srv")
    return vm


@pytest.mark.usefixtures("boot_server")
def test_a_machine_boots_what_another_serves(vm_factory, wire):
    client = vm_factory("client", nics=[NicSpec(network=wire, boot=True)])
    assert "served_by=boot" in client.run("cat /proc/cmdline").stdout.split()
    assert "http://10.9.0.1/boot.ipxe... ok" in client.console.text
