"""What the switch's own station says on a segment, to clients written out by hand."""

import struct
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network

import pytest
from switch_nics import EVERYBODY, Nic, mac, meet, packed, pcap

from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.switch import Switchboard, dhcp, dns, frames
from pytest_qemuvm.host.switch.station import station_mac
from pytest_qemuvm.spec.segment import Addressing, Impairment

GATEWAY = IPv4Address("10.1.2.1").packed
NOWHERE, ALL = bytes(4), b"\xff" * 4
STATION = frames.mac_text(station_mac("net0"))


class Host(Nic):
    """An interface that speaks some IP."""

    @property
    def address(self):
        return IPv4Address(self.port.ip or "0.0.0.0").packed

    def arp(self, target, *, operation=frames.ASKS, sender=None):
        packet = frames.Arp(
            operation, packed(self.mac), self.address if sender is None else sender, bytes(6), target
        )
        return self.frame(EVERYBODY, packet.encoded(), kind=frames.ARP)

    def udp(self, port, payload, *, source=None, target=GATEWAY, ip=None, to=STATION):
        ip = self.address if ip is None else ip
        datagram = frames.Datagram(source or port, port, payload).encoded(ip, target)
        packet = frames.Packet(ip, target, frames.UDP, datagram)
        return self.frame(to, packet.encoded(), kind=frames.IPV4)

    def heard(self):
        """Return the next frame of the station's, and the packet and the datagram in it."""
        while (frame := frames.ethernet(self.receive())).source != packed(STATION):
            pass
        packet = frames.ipv4(frame.payload)
        return frame, packet, packet and frames.udp(packet)

    def asks(self, frame):
        self.socket.send(frame)
        return self.heard()

    def looks_up(self, name, kind=dns.A):
        """Return the code and the data of the answers for a name."""
        labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
        question = labels + b"\0" + struct.pack("!HH", kind, 1)
        query = struct.pack("!HHHHHH", 77, 0x0100, 1, 0, 0, 0) + question
        _, packet, answer = self.asks(self.udp(53, query, source=4444))
        assert (packet.source, packet.target) == (GATEWAY, self.address)
        assert (answer.source, answer.target) == (53, 4444)
        number, flags, questions, count, _, _ = struct.unpack_from("!HHHHHH", answer.payload)
        assert (number, questions) == (77, 1)
        place = 12 + len(question)
        assert answer.payload[12:place] == question
        found = []
        for _ in range(count):
            size = struct.unpack_from("!H", answer.payload, place + 10)[0]
            found.append(answer.payload[place + 12 : place + 12 + size])
            place += 12 + size
        assert place == len(answer.payload)
        return flags & 15, found

    def dhcp(self, kind, *, options=b"", ciaddr=NOWHERE, flags=0, giaddr=NOWHERE, client=None):
        client = packed(client or self.mac)
        head = struct.pack("!BBBBIHH", 1, 1, 6, 0, 0x1234, 0, flags) + ciaddr + bytes(8) + giaddr
        data = (
            head
            + client
            + bytes(10 + 64 + 128)
            + b"\x63\x82\x53\x63\x35\1"
            + bytes([kind])
            + options
            + b"\xff"
        )
        source = ciaddr if ciaddr != NOWHERE else NOWHERE
        return self.udp(67, data, source=68, target=ALL, ip=source, to=EVERYBODY)


def reply(heard):
    """Return the kind, the address and the options of what a DHCP server said."""
    _, _, datagram = heard
    assert (datagram.source, datagram.target) == (67, 68)
    data = datagram.payload
    assert data[:4] == b"\2\1\6\0"
    assert data[4:8] == struct.pack("!I", 0x1234)
    assert data[236:240] == b"\x63\x82\x53\x63"
    options, place = {}, 240
    while data[place] != 255:
        size = data[place + 1]
        options[data[place]] = data[place + 2 : place + 2 + size]
        place += 2 + size
    return options.pop(53)[0], str(IPv4Address(data[16:20])), options


def wants(address, server=GATEWAY):
    return b"\x32\4" + IPv4Address(address).packed + (b"" if server is None else b"\x36\4" + server)


@pytest.fixture
def segment():
    board = Switchboard()
    yield board.segment("net0", Addressing(IPv4Network("10.1.2.0/24"), domain="lab.test"))
    board.close()


@pytest.fixture
def hosts(segment):
    hosts = [
        Host(segment, 0, "10.1.2.10", ("web", "WWW.shop")),
        Host(segment, 1, "10.1.2.11", ("db",)),
        Host(segment, 2),
    ]
    yield hosts
    for host in hosts:
        host.socket.close()


def silent(host, frame, witness):
    """Return whether the station does not answer a frame."""
    host.socket.send(frame)
    host.reaches(witness)
    return all(each[6:12] != packed(STATION) for each in host.came())


def test_arp_for_the_switch_and_for_nobody_else(hosts):
    a, b, _ = hosts
    frame, _, _ = a.asks(a.arp(GATEWAY))
    assert (frame.destination, frame.source) == (packed(a.mac), packed(STATION))
    assert frames.arp(frame.payload) == (2, packed(STATION), GATEWAY, packed(a.mac), a.address)
    # One that has no address yet looks whether somebody has this one.
    frame, _, _ = a.asks(a.arp(GATEWAY, sender=NOWHERE))
    assert frames.arp(frame.payload).sender == GATEWAY
    for other in ("10.1.2.11", "10.1.2.99", "10.1.3.1"):
        assert silent(a, a.arp(IPv4Address(other).packed), b)
    assert silent(a, a.arp(GATEWAY, operation=frames.ANSWERS), b)
    assert silent(a, a.arp(GATEWAY, sender=GATEWAY), b)


def test_what_is_for_the_switch_goes_to_nobody_else(hosts):
    a, b, _ = hosts
    a.socket.send(a.frame(STATION, b"for you"))
    assert a.reaches(b) == []


def echo(host, target, size, to=STATION):
    body = struct.pack("!HH", 7, 1) + bytes(size)
    body = b"\x08\0" + struct.pack("!H", frames.checksum(b"\x08\0\0\0" + body)) + body
    packet = frames.Packet(host.address, target, frames.ICMP, body)
    return host.frame(to, packet.encoded(), kind=frames.IPV4)


@pytest.mark.parametrize("size", [0, 1, 56, 1472, 9000])
def test_the_switch_answers_pings(hosts, size):
    a, b, _ = hosts
    _, packet, _ = a.asks(echo(a, GATEWAY, size))
    assert (packet.source, packet.target, packet.protocol) == (GATEWAY, a.address, frames.ICMP)
    assert packet.payload[:2] == b"\0\0"
    assert packet.payload[4:] == struct.pack("!HH", 7, 1) + bytes(size)
    assert frames.checksum(packet.payload) == 0
    assert silent(a, echo(a, IPv4Address("10.1.2.99").packed, size), b)
    assert silent(a, echo(a, GATEWAY, size, to=EVERYBODY), b)


def test_an_address_for_the_port_that_has_one(hosts):
    a, _, _ = hosts
    heard = a.asks(a.dhcp(dhcp.DISCOVER))
    assert heard[0].destination == packed(a.mac)
    assert heard[1].target == a.address
    kind, address, options = reply(heard)
    assert (kind, address) == (dhcp.OFFER, "10.1.2.10")
    assert options == {
        54: GATEWAY,
        51: struct.pack("!I", 86400),
        58: struct.pack("!I", 43200),
        59: struct.pack("!I", 75600),
        1: bytes([255, 255, 255, 0]),
        28: bytes([10, 1, 2, 255]),
        6: GATEWAY,
        15: b"lab.test",
        12: b"web",
    }
    kind, address, again = reply(a.asks(a.dhcp(dhcp.REQUEST, options=wants("10.1.2.10"))))
    assert (kind, address, again) == (dhcp.ACK, "10.1.2.10", options)


def test_one_that_cannot_hear_its_own_address_is_told_by_broadcast(hosts):
    a, b, _ = hosts
    frame, packet, _ = heard = a.asks(a.dhcp(dhcp.DISCOVER, flags=0x8000))
    assert (frame.destination, packet.target) == (b"\xff" * 6, ALL)
    assert reply(heard)[:2] == (dhcp.OFFER, "10.1.2.10")
    assert b.receive() != b.receive()  # what was asked, and what was answered


def test_a_lease_is_renewed_and_kept_after_a_reboot(hosts):
    a, _, _ = hosts
    assert reply(a.asks(a.dhcp(dhcp.REQUEST, ciaddr=a.address)))[:2] == (dhcp.ACK, "10.1.2.10")
    assert reply(a.asks(a.dhcp(dhcp.REQUEST, options=wants("10.1.2.10", None))))[0] == dhcp.ACK
    heard = a.asks(a.dhcp(dhcp.REQUEST, options=wants("10.1.2.11", None)))
    assert reply(heard)[:2] == (dhcp.NAK, "0.0.0.0")
    assert heard[0].destination == b"\xff" * 6
    kind, address, options = reply(a.asks(a.dhcp(dhcp.INFORM, ciaddr=a.address)))
    assert (kind, address, options[15]) == (dhcp.ACK, "0.0.0.0", b"lab.test")
    assert 51 not in options


def test_what_is_said_to_another_server_is_not_answered(hosts):
    a, b, _ = hosts
    assert silent(a, a.dhcp(dhcp.REQUEST, options=wants("10.1.2.10", b"\x0a\1\2\x63")), b)
    assert silent(a, a.dhcp(dhcp.DISCOVER, giaddr=b"\x0a\1\2\x63"), b)
    assert silent(a, a.dhcp(dhcp.OFFER), b)
    assert silent(a, a.dhcp(99), b)


def test_who_has_no_address_is_lent_one_that_nobody_has(segment, hosts):
    _, _, c = hosts
    kind, address, options = reply(c.asks(c.dhcp(dhcp.DISCOVER)))
    assert (kind, address) == (dhcp.OFFER, "10.1.2.254")
    assert 12 not in options
    assert reply(c.asks(c.dhcp(dhcp.REQUEST, options=wants(address))))[:2] == (dhcp.ACK, address)
    stranger = reply(c.asks(c.dhcp(dhcp.DISCOVER, client="52:54:00:99:99:99", flags=0x8000)))[1]
    assert stranger == "10.1.2.253"
    c.socket.send(c.dhcp(dhcp.RELEASE, ciaddr=IPv4Address(address).packed))
    late = Host(segment, 4, "10.1.2.254")
    assert reply(late.asks(late.dhcp(dhcp.DISCOVER)))[1] == "10.1.2.254"
    assert reply(c.asks(c.dhcp(dhcp.DISCOVER)))[1] == "10.1.2.252"
    c.socket.send(c.dhcp(dhcp.DECLINE, options=wants("10.1.2.252")))
    assert reply(c.asks(c.dhcp(dhcp.DISCOVER)))[1] == "10.1.2.251"
    late.socket.close()


def test_a_network_may_run_out_of_addresses():
    board = Switchboard()
    segment = board.segment("net0", Addressing(IPv4Network("10.1.2.0/30")))
    a, b = Host(segment, 0), Host(segment, 1)
    assert reply(a.asks(a.dhcp(dhcp.DISCOVER, flags=0)))[1] == "10.1.2.2"
    assert silent(b, b.dhcp(dhcp.DISCOVER), a)
    a.port.close()
    assert reply(b.asks(b.dhcp(dhcp.DISCOVER)))[1] == "10.1.2.2"
    board.close()
    a.socket.close()
    b.socket.close()


def test_names_are_found_with_the_domain_and_without(hosts):
    a, b, _ = hosts
    for name in ("web", "WEB", "web.lab.test", "wEb.LaB.tEsT", "www.shop", "www.shop.lab.test"):
        assert b.looks_up(name) == (0, [a.address])
        assert b.looks_up(name, kind=255) == (0, [a.address])
    assert b.looks_up("db") == (0, [b.address])


def test_what_nobody_is_called_is_said_at_once(hosts):
    a, _, _ = hosts
    for name in ("nobody", "web.example.org", "lab.test", "test", "web.lab.test.lab.test", "xn--x"):
        assert a.looks_up(name) == (3, [])
        assert a.looks_up(name, kind=28) == (3, [])
    assert a.looks_up("10.2.1.11", kind=12) == (3, [])


def test_a_known_name_has_no_other_records(hosts):
    a, _, _ = hosts
    for kind in (28, 15, 16, 65):
        assert a.looks_up("db", kind=kind) == (0, [])


def test_names_of_addresses(hosts):
    a, _, _ = hosts
    assert a.looks_up("11.2.1.10.in-addr.arpa", kind=12) == (0, [b"\2db\3lab\4test\0"])
    assert len(a.looks_up("10.2.1.10.IN-ADDR.arpa", kind=12)[1]) == 2
    assert a.looks_up("11.2.1.10.in-addr.arpa") == (0, [])
    assert a.looks_up("99.2.1.10.in-addr.arpa", kind=12) == (3, [])


def test_names_come_and_go_with_ports(segment, hosts):
    a, b, _ = hosts
    second = Host(segment, 5, None, ("db", "new"))
    assert a.looks_up("new") == (0, [])
    address = reply(second.asks(second.dhcp(dhcp.DISCOVER)))[1]
    assert a.looks_up("new") == (0, [IPv4Address(address).packed])
    assert a.looks_up("db") == (0, [b.address, IPv4Address(address).packed])
    second.port.close()
    second.socket.close()
    assert a.looks_up("new") == (3, [])
    assert a.looks_up("db") == (0, [b.address])


def test_other_ports_of_the_switch_are_silent(hosts):
    a, b, _ = hosts
    assert silent(a, a.udp(54, b"x"), b)
    assert silent(a, a.udp(53, b"x"), b)
    assert silent(a, a.udp(53, b"\0" * 40, to=EVERYBODY), b)


def test_nobody_answers_where_there_is_no_addressing():
    board = Switchboard()
    segment = board.segment("net0", None)
    a, b = Host(segment, 0), Host(segment, 1)
    for frame in (a.arp(GATEWAY), a.dhcp(dhcp.DISCOVER), echo(a, GATEWAY, 8)):
        assert silent(a, frame, b)
    with pytest.raises(SpecError):
        segment.probe("10.1.2.3", Deadline.after(10))
    board.close()
    a.socket.close()
    b.socket.close()


def test_a_probe_finds_who_has_an_address(segment, hosts):
    _, b, _ = hosts
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(segment.probe, "10.1.2.11", Deadline.after(60))
        questions = [frames.ethernet(b.receive()) for _ in range(3)]
        for frame in questions:
            assert (frame.destination, frame.source) == (b"\xff" * 6, packed(STATION))
            asked = frames.arp(frame.payload)
            assert asked == (frames.ASKS, packed(STATION), GATEWAY, bytes(6), b.address)
        answer = frames.Arp(frames.ANSWERS, packed(b.mac), b.address, packed(STATION), GATEWAY)
        # An answer for somebody else is none for the switch.
        b.socket.send(b.frame(STATION, answer._replace(target=b"\x0a\1\2\x77").encoded(), kind=frames.ARP))
        assert not found.done()
        b.socket.send(b.frame(STATION, answer.encoded(), kind=frames.ARP))
        assert found.result() == b.mac
    assert segment._station._sought == {}


def test_a_probe_ends_at_its_deadline(segment, hosts):
    assert segment.probe("10.1.2.99", Deadline.after(0.15)) is None
    assert segment.probe("10.1.2.99", Deadline.after(0)) is None
    assert segment.probe("10.1.2.1", Deadline.after(0)) == STATION
    assert segment._station._sought == {}
    for wrong in ("10.1.3.1", "10.1.2.0", "10.1.2.255", "ten"):
        with pytest.raises(SpecError):
            segment.probe(wrong, Deadline.after(10))


def test_rules_are_for_machines_and_not_for_the_station(segment, hosts):
    a, _, _ = hosts
    segment.impair(Impairment(loss=1), None, None)
    assert a.asks(a.arp(GATEWAY))
    assert a.looks_up("db")[0] == 0


def test_what_the_station_says_is_captured(segment, hosts, tmp_path):
    a, _, _ = hosts
    capture = segment.capture(tmp_path / "all.pcap")
    question = a.arp(GATEWAY)
    a.asks(question)
    capture.close()
    recorded = [frame for _, frame in pcap(tmp_path / "all.pcap")]
    assert recorded[0] == question
    assert frames.ethernet(recorded[1]).source == packed(STATION)


def test_nobody_can_be_the_station(segment, hosts):
    a, b, _ = hosts
    meet(*hosts)
    a.send(EVERYBODY, b"it is me", source=STATION)
    b.until(b"it is me")
    assert b.looks_up("web")[0] == 0
    with pytest.raises(SpecError):
        segment.connect("x", STATION, None)
    for address in ("10.1.2.1", "10.1.2.10", "10.1.2.255", "10.1.2.0", "192.168.0.1"):
        with pytest.raises(SpecError):
            segment.connect("x", mac(9), address)


def solicitation(host):
    """Return the frame by which a machine asks for an IPv6 router."""
    mac = packed(host.mac)
    source = bytes.fromhex("fe80000000000000") + bytes((mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]))
    target = bytes.fromhex("ff020000000000000000000000000002")
    data = b"\x85\0\0\0\0\0\0\0\1\1" + mac
    summed = frames.checksum(source + target + struct.pack("!II", len(data), 58) + data)
    data = data[:2] + struct.pack("!H", summed) + data[4:]
    packet = struct.pack("!IHBB", 6 << 28, len(data), 58, 255) + source + target + data
    return host.frame("33:33:00:00:00:02", packet, kind=0x86DD)


def test_only_who_boots_from_the_network_is_told_that_there_is_no_ipv6_router(hosts, segment):
    a, b, _ = hosts
    assert silent(a, solicitation(a), b)
    segment.deny_router(a.port)
    frame, _, _ = a.asks(solicitation(a))
    assert (frame.destination, frame.kind, frame.payload[40]) == (packed(a.mac), 0x86DD, 134)
    assert silent(b, solicitation(b), a)
