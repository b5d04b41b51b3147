"""Machines that boot from the network, off a server in another machine; and in which order what is tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_qemuvm import DiskSpec, NicSpec
from pytest_qemuvm.errors import GuestBootError, NoChannel, SpecError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_qemuvm import VM
    from pytest_qemuvm.machine.harness import Harness
    from pytest_qemuvm.machine.networks.network import Network
    from pytest_qemuvm.plugin.fixtures import NetworkFactory, VMFactory

GUEST = pytest.mark.qemuvm(needs="guest")

DHCP = """
interface eth0
start 10.9.0.100
end 10.9.0.200
lease_file /var/lib/misc/udhcpd.leases
boot_file http://10.9.0.1/boot.ipxe
option 0xaf b00101
"""
TELLS = bytes.fromhex("be137c ac 84c0 7408 b401 31d2 cd14 ebf3 f4 ebfd") + b"hello from the disk\r\n\0"
"""A boot sector that writes to the serial port by the firmware's help, and halts."""


@pytest.fixture(scope="module")
def wire(module_network_factory: NetworkFactory) -> Network:
    return module_network_factory(addressing=False)


@pytest.fixture(scope="module")
def server(wire: Network, module_vm_factory: VMFactory) -> VM:
    vm = module_vm_factory("boot-server", nics=[wire])
    vm.run("mkdir -p /srv /var/lib/misc && touch /var/lib/misc/udhcpd.leases")
    vm.write_text("/etc/udhcpd.conf", DHCP)
    vm.run("ip addr add 10.9.0.1/24 dev eth0 && udhcpd -S -a 100 /etc/udhcpd.conf && httpd -h /srv")
    return vm


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "tells.img"
    path.write_bytes(TELLS.ljust(510, b"\0") + b"\x55\xaa" + bytes(1024**2))
    return path


def hand_out(server: VM, *lines: str) -> None:
    server.write_text("/srv/boot.ipxe", "\n".join(("#!ipxe", *lines, "")))


def press_a_key(client: VM) -> None:
    """Have the boot ROM go on, which would wait 2 s for somebody who wants to talk to it."""
    client.console.expect("Press Ctrl-B for")
    client.console.send("")


@GUEST
class TestBooting:
    def test_the_built_in_guest_is_up_like_any_other(
        self, qemuvm: Harness, vm_factory: VMFactory, server: VM, wire: Network
    ) -> None:
        files = qemuvm.netboot_files()
        server.push(files.kernel, "/srv/vmlinuz")
        assert files.initrd
        server.push(files.initrd, "/srv/initrd")
        hand_out(server, f"kernel vmlinuz {files.append} served=yes", "initrd initrd", "boot")
        client = vm_factory("client", nics=[NicSpec(network=wire, boot=True)])
        assert client.plan.boot == "network"
        assert (client.started_as, "network" in (client.cold_because or "")) == ("cold", True)
        assert client.run("hostname; grep -o served=yes /proc/cmdline").stdout == "client\nserved=yes\n"
        # What the boot ROM was told of routers is no router.
        assert client.run("ip -6 route | grep -c -e default -e ' via '", check=False).stdout == "0\n"
        with client.hotplug(DiskSpec("16M")) as disk:
            assert client.run(f"ls /dev/disk/by-id/*{disk.id}").ok

    def test_a_guest_of_yours_is_on_the_console(
        self, vm_factory: VMFactory, server: VM, wire: Network
    ) -> None:
        hand_out(server, "echo hello from ${next-server} to ${hostname} over ${net0/chip}", "shell")
        nic = NicSpec(network=wire, boot=True, model="e1000e")
        client = vm_factory(template="bare", boot="disk", disks=[DiskSpec("16M")], nics=[NicSpec(), nic])
        client.console.expect("Booting from Hard Disk")
        press_a_key(client)
        client.console.expect("hello from .* over 82574")
        with pytest.raises(NoChannel):
            client.run("true")

    def test_a_server_may_send_it_on_to_its_disk(
        self, vm_factory: VMFactory, server: VM, wire: Network, image: Path
    ) -> None:
        hand_out(server, "echo nothing for you", "exit")
        nics = [NicSpec(network=wire, boot=True)]
        client = vm_factory(template="bare", boot="network", image=image, format="raw", nics=nics)
        press_a_key(client)
        client.console.expect("nothing for you")
        press_a_key(client)
        client.console.expect("hello from the disk")

    def test_a_disk_comes_first_where_it_is_said(
        self, vm_factory: VMFactory, wire: Network, image: Path
    ) -> None:
        nics = [NicSpec(network=wire, boot=True)]
        client = vm_factory(template="bare", image=image, format="raw", nics=nics)
        client.console.expect("hello from the disk")
        assert "Configuring" not in client.console.text

    def test_a_guest_that_is_not_there_is_an_error_at_once(
        self, vm_factory: VMFactory, server: VM, wire: Network
    ) -> None:
        hand_out(server, "echo nothing for you", "exit")
        client = vm_factory(nics=[NicSpec(network=wire, boot=True)], start=False)
        with pytest.raises(GuestBootError) as caught:
            client.start()
        assert "nothing for you" in caught.value.console
        assert "No bootable device" in caught.value.console
        assert "nothing to boot" in caught.value.brief
        assert client.state == "stopped"


class TestOrder:
    @pytest.mark.parametrize(
        ("spec", "boot", "order"),
        [
            ({}, "network", [2, None, 1]),
            ({"boot": "network"}, "network", [2, None, 1]),
            ({"boot": "disk"}, "disk", [1, None, 2]),
            ({"boot": "network", "disks": []}, "network", [None, 1]),
        ],
    )
    def test_what_is_said_comes_first(
        self,
        vm_factory: VMFactory,
        network_factory: NetworkFactory,
        spec: dict[str, object],
        boot: str,
        order: list[int | None],
    ) -> None:
        lan = network_factory(addressing=False)
        known = {"disks": [DiskSpec("16M")], "nics": [lan, NicSpec(network=lan, boot=True)]}
        vm = vm_factory(template="bare", **{**known, **spec})
        assert vm.plan.boot == boot
        asked = [{"path": device.id, "property": "bootindex"} for device in vm.plan.devices]
        found = [vm.qmp.execute("qom-get", question) for question in asked]
        assert found == [-1 if index is None else index for index in order]


class TestRefusals:
    @pytest.mark.parametrize(
        ("spec", "says"),
        [
            ({"template": "bare", "machine": "microvm"}, "microvm"),
            ({"boot": "kernel"}, "boot='network'"),
            ({"template": "bare", "boot": "none"}, "boot='network'"),
            ({"append": "debug"}, "append="),
            ({"boot": "network", "nics": [NicSpec()]}, "NicSpec(..., boot=True)"),
        ],
    )
    def test_what_cannot_be_is_refused_before_anything_is_touched(
        self, vm_factory: VMFactory, spec: dict[str, object], says: str
    ) -> None:
        with pytest.raises(SpecError) as caught:
            vm_factory(**{"nics": [NicSpec(boot=True)], **spec})
        assert says in str(caught.value)

    def test_a_nic_that_is_plugged_is_not_booted_from(
        self, vm_factory: VMFactory, network_factory: NetworkFactory
    ) -> None:
        lan = network_factory()
        vm = vm_factory(template="bare")
        with pytest.raises(SpecError, match="started with"):
            vm.hotplug(NicSpec(network=lan, boot=True))
        assert lan.vms == ()
        vm.hotplug(NicSpec(network=lan)).unplug()

    def test_when_it_boots_is_the_machines_to_say(self) -> None:
        with pytest.raises(SpecError, match="bootindex"):
            NicSpec(boot=True, properties={"bootindex": 3})
        with pytest.raises(SpecError, match="boot"):
            NicSpec(boot=1)  # type: ignore[arg-type]
