"""Services of the host's, as guests reach them: real guests, real servers."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from pytest_qemuvm import NicSpec
from pytest_qemuvm.errors import AddressInUse, NetworkInUse, QemuVMError, QemuVMWarning, SpecError
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.switch import dns
from pytest_qemuvm.host.switch.tcp_connection import ROOM
from pytest_qemuvm.machine.networks.wires import SegmentOutlet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_qemuvm import VM
    from pytest_qemuvm.host.switch import Service
    from pytest_qemuvm.host.switch.fabric import Fabric
    from pytest_qemuvm.host.switch.relay import Relay
    from pytest_qemuvm.machine.networks.network import Network
    from pytest_qemuvm.plugin.fixtures import NetworkFactory, VMFactory
    from pytest_qemuvm.spec.services import Protocol, Target

GUEST = pytest.mark.qemuvm(needs="guest")
PATIENCE = 120.0
"""Seconds after which what should have come will not come."""


class Server:
    """Something that listens on the host, and has each connection handled on a thread of its own."""

    def __init__(self, handle: Callable[[socket.socket], object], path: Path | None = None) -> None:
        self._handle = handle
        self._stack = ExitStack()
        self.ends: list[str] = []
        """How connections ended: ``""``, or the name of an error."""
        self.ended = threading.Semaphore(0)
        if path is None:
            self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.bind(str(path))
            self.socket.listen(64)
        self.to = self.socket.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        end = ""
        with connection:
            connection.settimeout(PATIENCE)
            try:
                self._handle(connection)
            except OSError as error:
                end = type(error).__name__
        self.ends.append(end)
        self.ended.release()

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def everything(connection: socket.socket) -> bytes:
    found = bytearray()
    while data := connection.recv(1 << 16):
        found += data
    return bytes(found)


def digest(connection: socket.socket) -> None:
    """Answer with the digest of all that comes, when nothing more comes."""
    connection.sendall(hashlib.sha256(everything(connection)).hexdigest().encode())


@pytest.fixture
def server() -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:

        def make(handle: Callable[[socket.socket], object], path: Path | None = None) -> Server:
            made = Server(handle, path)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def names() -> Iterator[tuple[str, int]]:
    """Give the address of a server that has one address for every name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=answer, args=(sock,))
        thread.start()
        yield sock.getsockname()
        sock.sendto(b"", sock.getsockname())
        thread.join()


def answer(sock: socket.socket) -> None:
    while True:
        data, who = sock.recvfrom(2000)
        asked = dns.query(data)
        if asked is None:
            return
        sock.sendto(dns.reply(asked, dns.NO_ERROR, dns.A, [bytes([10, 9, 8, 7])]), who)


@pytest.fixture(params=["segment", "user"])
def net(request: pytest.FixtureRequest, network_factory: NetworkFactory) -> Network:
    return network_factory("net", kind=request.param)


def up(vm_factory: VMFactory, net: Network, *nics: NicSpec) -> VM:
    vm = vm_factory(nics=[net, *nics])
    net.wait_all_up()
    return vm


def upper(connection: socket.socket) -> None:
    while data := connection.recv(1 << 16):
        connection.sendall(data.upper())


@GUEST
class TestOnEitherKind:
    def test_megabytes_each_way_and_an_end_of_each(
        self, vm_factory: VMFactory, net: Network, server: Callable[..., Server]
    ) -> None:
        data = random.Random(7).randbytes(3 << 20)
        giving = net.serve(80, server(lambda connection: connection.sendall(data)).to)
        taking = net.serve(81, server(digest).to)
        vm = up(vm_factory, net)
        assert giving.ip == taking.ip
        vm.run(f"nc {giving.ip} 80 </dev/null >/tmp/data")
        assert vm.run("sha256sum </tmp/data").stdout.split()[0] == hashlib.sha256(data).hexdigest()
        assert vm.run(f"nc {taking.ip} 81 </tmp/data").stdout == hashlib.sha256(data).hexdigest()
        assert (giving.connections, taking.connections) == (1, 1)

    def test_many_at_once(
        self, vm_factory: VMFactory, net: Network, server: Callable[..., Server], tmp_path: Path
    ) -> None:
        service = net.serve(80, server(upper, tmp_path / "socket").to)
        vm = up(vm_factory, net)
        vm.run(f"for n in $(seq 20); do echo from-$n | nc {service.ip} 80 >/tmp/$n & done; wait")
        assert vm.run("for n in $(seq 20); do cat /tmp/$n; done").stdout.split() == [
            f"FROM-{number}" for number in range(1, 21)
        ]
        assert service.connections == 20

    def test_what_nobody_serves_is_refused(
        self, vm_factory: VMFactory, net: Network, server: Callable[..., Server]
    ) -> None:
        nobody = socket.create_server(("127.0.0.1", 0))
        service = net.serve(80, nobody.getsockname())
        nobody.close()
        passing = net.serve(82, server(upper).to)
        vm = up(vm_factory, net)
        passing.close()
        for port in (80, 81, 82):
            answer = vm.run(f"nc {service.ip} {port} </dev/null", check=False)
            assert "Connection refused" in answer.stderr
        assert service.connections == 0

    def test_the_guest_waits_for_a_host_that_does_not_read(
        self, vm_factory: VMFactory, net: Network, server: Callable[..., Server]
    ) -> None:
        reads = threading.Event()

        def late(connection: socket.socket) -> None:
            reads.wait(PATIENCE)
            digest(connection)

        service = net.serve(80, server(late).to)
        vm = up(vm_factory, net)
        size = 3 << 20
        vm.run(f"(dd if=/dev/zero bs=1M count=3 2>/dev/null | nc {service.ip} 80 >/tmp/digest) </dev/null &")
        # The window is shut when the guest keeps what it has not sent.
        full = "netstat -tn | awk '$3 >= 100000 { found = 1 } END { exit !found }'"
        vm.wait_until_succeeds(full)
        (relay,) = relays(net)
        assert len(relay.connection.receiver.ready) <= ROOM
        reads.set()
        vm.wait_until_succeeds("test -s /tmp/digest")
        assert vm.read_text("/tmp/digest") == hashlib.sha256(bytes(size)).hexdigest()

    def test_the_host_waits_for_a_guest_that_does_not_read(
        self, vm_factory: VMFactory, net: Network, server: Callable[..., Server]
    ) -> None:
        size = 8 << 20
        service = net.serve(80, (served := server(lambda connection: connection.sendall(bytes(size)))).to)
        vm = up(vm_factory, net)
        vm.run(f"mkfifo /tmp/go; (nc {service.ip} 80 | (read x </tmp/go; wc -c >/tmp/size)) </dev/null &")
        vm.wait_until_succeeds("netstat -tn | awk '$2 >= 50000 { found = 1 } END { exit !found }'")
        (relay,) = relays(net)
        assert relay.connection.sender.room >= 0
        assert served.ends == []
        vm.run("echo >/tmp/go")
        vm.wait_until_succeeds("test -s /tmp/size")
        assert vm.read_text("/tmp/size").strip() == str(size)

    def test_the_host_notices_when_its_guest_is_gone(
        self, vm_factory: VMFactory, net: Network, server: Callable[..., Server]
    ) -> None:
        served = server(upper)
        service = net.serve(80, served.to)
        vm = up(vm_factory, net)
        hold(vm, service)
        vm.kill()
        assert served.ended.acquire(timeout=PATIENCE)
        assert served.ends == ["ConnectionResetError"]

    def test_a_service_that_is_closed_resets_its_connections(
        self, vm_factory: VMFactory, net: Network, server: Callable[..., Server]
    ) -> None:
        served = server(upper)
        vm = None
        with net.serve(80, served.to) as service:
            vm = up(vm_factory, net)
            hold(vm, service)
        service.close()
        assert service.closed
        assert served.ended.acquire(timeout=PATIENCE)
        assert served.ends == ["ConnectionResetError"]
        vm.wait_until_succeeds("! pidof nc")
        with net.serve(80, served.to):
            assert vm.run(f"echo again | nc {service.ip} 80").stdout == "AGAIN\n"

    def test_a_snapshot_does_not_bring_a_connection_back(
        self, vm_factory: VMFactory, net: Network, server: Callable[..., Server]
    ) -> None:
        served = server(upper)
        service = net.serve(80, served.to)
        vm = up(vm_factory, net)
        hold(vm, service)
        vm.snapshot("talking")
        vm.run("echo more >/tmp/say")
        vm.wait_until_succeeds("grep -q MORE /tmp/heard")
        vm.restore("talking")
        assert served.ended.acquire(timeout=PATIENCE)
        assert served.ends == ["ConnectionResetError"]
        vm.wait_until_succeeds("! pidof nc")
        assert vm.run(f"echo again | nc {service.ip} 80").stdout == "AGAIN\n"

    def test_a_cable_that_is_pulled_for_a_while(
        self, vm_factory: VMFactory, net: Network, server: Callable[..., Server]
    ) -> None:
        goes_on = threading.Event()
        data = random.Random(8).randbytes(1 << 20)

        def in_two(connection: socket.socket) -> None:
            connection.sendall(data[:1000])
            goes_on.wait(PATIENCE)
            connection.sendall(data[1000:])

        service = net.serve(80, server(in_two).to)
        vm = up(vm_factory, net)
        vm.run(f"nc {service.ip} 80 </dev/null >/tmp/data &")
        vm.wait_until_succeeds("test -s /tmp/data")
        with vm.faults.link_down():
            goes_on.set()
            wait_for(net, lambda relay: relay.connection.sender.round_trip.timeout > 0.5)
        vm.wait_until_succeeds("! pidof nc")
        assert vm.run("sha256sum </tmp/data").stdout.split()[0] == hashlib.sha256(data).hexdigest()

    def test_datagrams(self, vm_factory: VMFactory, net: Network, names: tuple[str, int]) -> None:
        service = net.serve(5353, names, protocol="udp")
        vm = up(vm_factory, net)
        for _ in range(2):
            assert "10.9.8.7" in vm.run(f"nslookup -type=a -port=5353 some.name {service.ip}").stdout
        assert service.connections >= 1
        assert service.protocol == "udp"
        service.close()
        asked = vm.run(f"nslookup -retry=1 -timeout=1 -port=5353 some.name {service.ip}", check=False)
        assert "10.9.8.7" not in asked.stdout

    def test_a_nic_that_is_plugged_and_a_clone_of_its_vm(
        self, vm_factory: VMFactory, net: Network, server: Callable[..., Server]
    ) -> None:
        service = net.serve(80, server(upper).to)
        one = vm_factory()
        one.hotplug(NicSpec(network=net))
        one.wait_until_succeeds("ip -4 -o addr show eth0 | grep -q inet")
        two = one.clone()
        for vm in (one, two):
            assert vm.run(f"echo me | nc {service.ip} 80").stdout == "ME\n"
        assert service.connections == 2


@GUEST
def test_the_host_has_a_name_on_a_segment(
    vm_factory: VMFactory, network_factory: NetworkFactory, server: Callable[..., Server]
) -> None:
    left, right = network_factory("left"), network_factory("right")
    left.serve(80, server(upper).to)
    service = right.serve(80, server(lambda connection: connection.sendall(b"right")).to)
    vm = vm_factory("one", nics=[left, right])
    assert vm.run("echo left | nc host.left.test 80").stdout == "LEFT\n"
    assert vm.run("nc host.right.test 80 </dev/null").stdout == "right"
    assert "host.right.test" in vm.run(f"nslookup {service.ip} {service.ip}").stdout
    vm_factory("host", nics=[right])
    right.wait_all_up()
    assert vm.run("nc host 80 </dev/null", check=False).stdout == ""


@GUEST
def test_on_user_mode_networking_forwards_go_on_and_vms_do_not_meet(
    vm_factory: VMFactory, network_factory: NetworkFactory, server: Callable[..., Server]
) -> None:
    net = network_factory(kind="user", subnet="10.44.0.0/27")
    service = net.serve(80, server(upper).to)
    assert service.ip == "10.44.0.5"
    vms = [vm_factory(nics=[NicSpec(network=net, forward=8080)]) for _ in range(2)]
    net.wait_all_up()
    for vm in vms:
        vm.run("echo forwarded >/tmp/x; (nc -l -p 8080 </tmp/x >/dev/null) &")
        vm.wait_for_port(8080)
        with socket.create_connection(("127.0.0.1", vm.port(8080)), PATIENCE) as connection:
            assert connection.recv(100) == b"forwarded\n"
        assert vm.run(f"echo out | nc {service.ip} 80").stdout == "OUT\n"
        assert not vm.run("nc -w 2 10.44.0.2 80 </dev/null", check=False).ok
    for fabric, vm in zip(fabrics(net), reversed(vms), strict=True):
        assert bytes.fromhex(vm.nics[0].mac.replace(":", "")) not in fabric._learned


class TestBookkeeping:
    """What holds with any QEMU, and with none."""

    pytestmark = pytest.mark.qemuvm(template="bare")

    def test_services_come_and_go(self, vm_factory: VMFactory, net: Network, tmp_path: Path) -> None:
        with net.serve(80, 8080) as web, net.serve(80, ("127.0.0.1", 53), "udp") as other:
            assert (web.port, web.protocol, web.to) == (80, "tcp", ("127.0.0.1", 8080))
            assert (other.port, other.protocol, other.connections) == (80, "udp", 0)
            assert web.ip == other.ip
            vm_factory(nics=[net])
            with pytest.raises(AddressInUse) as caught:
                net.serve(80, tmp_path / "socket")
            assert caught.value.holder == str(web.to)
        assert web.closed
        assert net.serve(80, tmp_path / "socket").to == str(tmp_path / "socket")
        assert net.serve(81, ("::1", 80, 0, 0)).to == ("::1", 80)

    @pytest.mark.parametrize(
        ("port", "to", "protocol"),
        [
            (0, 80, "tcp"),
            (65536, 80, "tcp"),
            ("80", 80, "tcp"),
            (True, 80, "tcp"),
            (80, 0, "tcp"),
            (80, None, "tcp"),
            (80, ("127.0.0.1",), "tcp"),
            (80, ("127.0.0.1", "80"), "tcp"),
            (80, ("", 80), "tcp"),
            (80, ("no such host", 80), "tcp"),
            (80, "", "tcp"),
            (80, "x" * 108, "tcp"),
            (80, "/socket", "udp"),
            (80, 80, "icmp"),
            (80, 80, None),
        ],
    )
    def test_a_service_that_cannot_be(self, net: Network, port: int, to: Target, protocol: Protocol) -> None:
        with pytest.raises(SpecError):
            net.serve(port, to, protocol)
        net.serve(80, 80)

    def test_what_the_network_answers_itself(self, network_factory: NetworkFactory) -> None:
        for port in (53, 67):
            with pytest.raises(AddressInUse):
                network_factory().serve(port, 80, "udp")
        network_factory(kind="user").serve(53, 80, "udp")

    def test_networks_that_serve_nothing(self, network_factory: NetworkFactory) -> None:
        wire = network_factory(addressing=False)
        out = network_factory(kind="user", outward=True)
        with pytest.warns(QemuVMWarning):
            bridge = network_factory(kind="bridge")
        for network, hint in ((wire, "addressing"), (out, "10.0.2.2"), (bridge, "itself")):
            with pytest.raises(SpecError) as caught:
                network.serve(80, 80)
            assert hint in str(caught.value.hint)

    def test_on_user_mode_networking_the_first_comes_before_the_machines(
        self, vm_factory: VMFactory, network_factory: NetworkFactory
    ) -> None:
        net = network_factory(kind="user")
        vm = vm_factory(nics=[net])
        with pytest.raises(NetworkInUse) as caught:
            net.serve(80, 80)
        assert caught.value.users == (vm.name,)
        vm.delete()
        net.serve(80, 80).close()
        vm_factory(nics=[net])
        net.serve(81, 80)

    def test_services_end_with_their_network(self, net: Network) -> None:
        service = net.serve(80, 80)
        net.delete()
        service.close()
        with pytest.raises(QemuVMError):
            net.serve(81, 80)


def hold(vm: VM, service: Service) -> None:
    """Have a guest open a connection that stays open; what is written to /tmp/say is said on it."""
    vm.run(f"mkfifo /tmp/say; (exec 9<>/tmp/say; nc {service.ip} 80 <&9 >/tmp/heard) </dev/null &")
    vm.run("echo hello >/tmp/say")
    vm.wait_until_succeeds("grep -q HELLO /tmp/heard")


def fabrics(net: Network) -> list[Fabric]:
    outlets = (joint.outlet for joint in net.joints())
    return [outlet.port._fabric for outlet in outlets if isinstance(outlet, SegmentOutlet)]


def relays(net: Network) -> list[Relay]:
    fabric = fabrics(net)[0]
    assert fabric.station is not None
    exchange = fabric.station.exchange
    assert exchange is not None
    return fabric.reactor.call(lambda: list(exchange._relays.values()))


def wait_for(net: Network, holds: Callable[[Relay], bool]) -> None:
    """Wait until something holds for the connection that there is."""
    deadline = Deadline.after(PATIENCE)
    while not holds(relays(net)[0]):
        assert not deadline.expired
