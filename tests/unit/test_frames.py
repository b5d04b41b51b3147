"""What is read from frames, against bytes written by hand; and that no bytes do any harm."""

import struct
from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from pytest_qemuvm.host.switch import dhcp, dns, frames, ndp
from pytest_qemuvm.host.switch.station import Station, station_mac
from pytest_qemuvm.spec.segment import Addressing

A, B = b"\x0a\x01\x02\x03", b"\x0a\x01\x02\x01"
MAC = bytes.fromhex("525400aa0001")
STATION = station_mac("net0")

# Taken from a real network: RFC 1071's and well-known packets, byte for byte.
IPV4_HEADER = bytes.fromhex("45000073000040004011b861c0a80001c0a800c7")
ARP_REQUEST = bytes.fromhex("0001080006040001 525400aa0001 0a010203 000000000000 0a010201".replace(" ", ""))
ECHO = bytes.fromhex("0800f7fd00010001") + b""
DNS_QUERY = bytes.fromhex("abcd01000001000000000000") + b"\x03vM0\x04tEst\x00\x00\x01\x00\x01"


def test_the_checksum_of_a_packet_that_everybody_knows():
    assert frames.checksum(IPV4_HEADER) == 0
    assert frames.checksum(IPV4_HEADER[:10] + b"\0\0" + IPV4_HEADER[12:]) == 0xB861
    assert frames.checksum(b"\x01") == 0xFEFF


def test_a_packet_is_read_without_what_pads_it():
    packet = IPV4_HEADER + bytes(0x73 - 20)
    read = frames.ipv4(packet + b"padding")
    assert read == (b"\xc0\xa8\x00\x01", b"\xc0\xa8\x00\xc7", 17, bytes(0x73 - 20))
    for wrong in (packet[:-1], b"\x65" + packet[1:], b"\x44" + packet[1:], packet[:8] + b"\x41" + packet[9:]):
        assert frames.ipv4(wrong) is None


# As iPXE sends it, taken from a segment.
ASKS_FOR_ROUTERS = bytes.fromhex(
    "333300000002 52543a17004a 86dd 60000000 0010 3a ff fe8000000000000050543afffe17004a"
    "ff020000000000000000000000000002 85 00 65c3 00000000 0101 52543a17004a"
)


def test_who_asks_for_an_ipv6_router_is_told_that_there_is_none():
    answer = ndp.no_router(ASKS_FOR_ROUTERS, STATION)
    assert answer[:14] == ASKS_FOR_ROUTERS[6:12] + STATION + b"\x86\xdd"
    source, target, data = answer[22:38], answer[38:54], answer[54:70]
    assert (source[:8], target) == (bytes.fromhex("fe80000000000000"), ASKS_FOR_ROUTERS[22:38])
    assert data[:2] + data[4:] == bytes([134, *bytes(13)])
    assert frames.checksum(source + target + struct.pack("!II", 16, 58) + data) == 0


def test_nobody_else_is_told_of_routers():
    good = ASKS_FOR_ROUTERS
    changes = {
        12: b"\x08\x00",
        14: b"\x40",
        20: b"\x11",
        21: b"\x40",
        22: bytes(16),
        54: b"\x86",
        56: b"\0\1",
    }
    for at, other in changes.items():
        assert ndp.no_router(good[:at] + other + good[at + len(other) :], STATION) is None, at
    for size in range(len(good)):
        assert ndp.no_router(good[:size], STATION) is None


@given(st.binary(max_size=90))
def test_no_frame_does_harm_to_who_answers_for_routers(data):
    assert ndp.no_router(data, STATION) is None
    assert ndp.no_router(ASKS_FOR_ROUTERS[:14] + data, STATION) is None


def test_a_part_of_a_packet_is_not_read():
    head = bytearray(frames.Packet(A, B, 17, b"x" * 8).encoded())
    head[6:8] = b"\x20\x00"
    head[10:12] = b"\0\0"
    head[10:12] = struct.pack("!H", frames.checksum(bytes(head[:20])))
    assert frames.ipv4(bytes(head)) is None


def test_arp():
    read = frames.arp(ARP_REQUEST + bytes(18))
    assert read == (frames.ASKS, MAC, A, bytes(6), B)
    assert read.encoded() == ARP_REQUEST
    assert frames.arp(ARP_REQUEST[:-1]) is None
    assert frames.arp(b"\0\6" + ARP_REQUEST[2:]) is None


def test_echo():
    assert frames.echo_reply(frames.Packet(A, B, frames.ICMP, ECHO)) == bytes.fromhex("0000fffd00010001")
    assert frames.echo_reply(frames.Packet(A, B, frames.ICMP, b"\0" + ECHO[1:])) is None
    assert frames.echo_reply(frames.Packet(A, B, frames.ICMP, ECHO + b"x")) is None
    assert frames.echo_reply(frames.Packet(A, B, frames.UDP, ECHO)) is None


@given(st.binary(max_size=100), st.integers(0, 65535), st.integers(0, 65535))
def test_a_datagram_is_read_as_it_was_written(payload, source, target):
    datagram = frames.Datagram(source, target, payload)
    packet = frames.ipv4(frames.Packet(A, B, frames.UDP, datagram.encoded(A, B)).encoded() + b"padding")
    assert frames.udp(packet) == datagram
    broken = packet._replace(payload=packet.payload[:-1] + bytes([packet.payload[-1] ^ 1]))
    assert frames.udp(broken) is None
    assert frames.udp(broken._replace(payload=broken.payload[:6] + b"\0\0" + broken.payload[8:])) is not None


def test_a_frame_is_as_long_as_on_a_wire():
    frame = frames.Ethernet(frames.BROADCAST, MAC, frames.ARP, ARP_REQUEST).encoded()
    assert len(frame) == 60
    assert frames.ethernet(frame).payload.startswith(ARP_REQUEST)
    assert frames.mac_bytes(frames.mac_text(MAC)) == MAC


def test_a_dns_question_and_its_answer_byte_for_byte():
    asked = dns.query(DNS_QUERY)
    assert asked.name == (b"vm0", b"test")
    assert asked.kind == dns.A
    answer = dns.reply(asked, dns.NO_ERROR, dns.A, [A])
    head = bytes.fromhex("abcd85800001000100000000")
    assert answer == head + DNS_QUERY[12:] + bytes.fromhex("c00c00010001000000010004") + A
    assert dns.reply(asked, dns.NO_SUCH_NAME) == bytes.fromhex("abcd85830001000000000000") + DNS_QUERY[12:]


def test_dns_questions_that_are_none():
    assert dns.query(DNS_QUERY[:11]) is None
    assert dns.query(b"\0\0\x80\0" + DNS_QUERY[4:]) is None
    assert dns.query(DNS_QUERY[:-1]).problem == dns.FORMAT_ERROR
    assert dns.query(DNS_QUERY[:4] + b"\0\2" + DNS_QUERY[6:]).problem == dns.FORMAT_ERROR
    assert dns.query(DNS_QUERY[:12] + b"\xc0\x0c\0\1\0\1").problem == dns.FORMAT_ERROR
    assert dns.query(DNS_QUERY[:2] + b"\x28\0" + DNS_QUERY[4:]).problem == dns.NOT_IMPLEMENTED
    assert dns.query(DNS_QUERY[:-1] + b"\3").problem == dns.REFUSED
    long = b"\x3f" + b"x" * 63
    assert dns.query(DNS_QUERY[:12] + long * 4 + b"\0\0\1\0\1").problem == dns.FORMAT_ERROR
    assert dns.query(DNS_QUERY[:12] + b"\0\0\2\0\1").name == ()


def test_an_answer_is_never_longer_than_everybody_takes():
    answer = dns.reply(dns.query(DNS_QUERY), dns.NO_ERROR, dns.A, [A] * 100)
    assert len(answer) <= 512
    assert struct.unpack_from("!H", answer, 6) == ((len(answer) - len(DNS_QUERY)) // 16,)


def discover(options, *, file=b"", name=b""):
    head = struct.pack("!BBBBIHH4s4s4s4s", 1, 1, 6, 0, 0x3903F326, 5, 0x8000, *[bytes(4)] * 4)
    return (
        head
        + MAC
        + bytes(10)
        + name.ljust(64, b"\0")
        + file.ljust(128, b"\0")
        + b"\x63\x82\x53\x63"
        + options
    )


def test_a_dhcp_message():
    read = dhcp.message(discover(b"\0\0\x35\1\1\x32\4\x0a\1\2\3\x3d\7\1" + MAC + b"\xff\x35\1\7"))
    assert (read.kind, read.transaction, read.mac, read.broadcast) == (dhcp.DISCOVER, 0x3903F326, MAC, True)
    assert read.option(dhcp.WANTED) == A
    assert read.option(dhcp.SERVER) is None
    assert read.options[dhcp.CLIENT_ID] == b"\1" + MAC


def test_dhcp_options_in_pieces_and_in_other_fields():
    read = dhcp.message(discover(b"\x34\1\3\x0c\1a\xff", file=b"\x35\1\3\x0c\1b\xff", name=b"\x0c\1c"))
    assert read.kind == dhcp.REQUEST
    assert read.options[dhcp.HOSTNAME] == b"abc"
    assert dhcp.message(discover(b"\x0c\1a\xff", file=b"\x35\1\3")) is None


def test_dhcp_messages_that_are_none():
    good = discover(b"\x35\1\1\xff")
    assert dhcp.message(good) is not None
    for wrong in (b"", good[:239], b"\2" + good[1:], good[:1] + b"\6" + good[2:], good[:236] + bytes(8)):
        assert dhcp.message(wrong) is None
    for options in (b"", b"\xff", b"\x35", b"\x35\1", b"\x35\2\1\1\xff", b"\x35\xff\1"):
        assert dhcp.message(discover(options)) is None


def test_a_dhcp_answer_byte_for_byte():
    asked = dhcp.message(discover(b"\x35\1\1\xff"))
    answer = dhcp.reply(asked, dhcp.OFFER, A, {dhcp.SERVER: B})
    assert answer[:8] == bytes.fromhex("020106003903f326")
    assert answer[8:28] == b"\0\0\x80\0" + bytes(4) + A + bytes(8)
    assert answer[28:44] == MAC + bytes(10)
    assert answer[236:] == b"\x63\x82\x53\x63\x35\1\2\x36\4" + B + b"\xff" + bytes(50)


@given(st.binary(max_size=400))
def test_no_bytes_do_any_harm(data):
    for read in (frames.ethernet, frames.arp, frames.ipv4, dhcp.message, dns.query):
        read(data)
    for protocol in (frames.ICMP, frames.UDP):
        packet = frames.Packet(A, B, protocol, data)
        frames.udp(packet)
        frames.echo_reply(packet)


def wrapped(draw_kind, data, port):
    """Return a frame for the station that is right down to some layer, and anything below that."""
    if draw_kind == "arp":
        body, kind = ARP_REQUEST[:6] + data, frames.ARP
    else:
        protocol = frames.ICMP if draw_kind == "icmp" else frames.UDP
        if draw_kind == "dhcp":
            data = discover(b"")[:236] + b"\x63\x82\x53\x63" + data
        if draw_kind == "dns":
            data = DNS_QUERY[:12] + data
        payload = data if draw_kind in ("udp", "icmp") else frames.Datagram(4000, port, data).encoded(A, B)
        body = data if draw_kind == "ip" else frames.Packet(A, B, protocol, payload).encoded()
        kind = frames.IPV4
    return frames.Ethernet(STATION, MAC, kind, body).encoded()


@given(
    st.sampled_from(["arp", "ip", "icmp", "udp", "datagram", "dhcp", "dns"]),
    st.binary(max_size=300),
    st.sampled_from([53, 67]),
)
def test_the_station_survives_everything_and_answers_in_whole_frames(kind, data, port):
    station = Station("net0", Addressing(IPv4Network("10.1.2.0/24")))
    answer = station.hear(wrapped(kind, data, port))
    if answer is not None:
        assert 60 <= len(answer) <= 70000
        assert answer[6:12] == STATION


@given(
    st.lists(
        st.tuples(st.binary(min_size=6, max_size=6), st.integers(0, 255), st.binary(max_size=30)), max_size=8
    )
)
def test_nobody_is_lent_what_another_has(messages):
    station = Station("net0", Addressing(IPv4Network("10.1.2.0/29")))
    for mac, kind, rest in messages:
        data = discover(b"\x35\1" + bytes([kind]) + rest)
        data = data[:28] + mac + data[34:]
        payload = frames.Datagram(68, 67, data).encoded(bytes(4), b"\xff" * 4)
        packet = frames.Packet(bytes(4), b"\xff" * 4, frames.UDP, payload)
        station.hear(frames.Ethernet(frames.BROADCAST, mac, frames.IPV4, packet.encoded()).encoded())
    lent = list(station.leases._lent.values())
    assert len(set(lent)) == len(lent)
    assert IPv4Address("10.1.2.1") not in lent
