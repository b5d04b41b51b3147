"""Services of the host's, to a guest whose segments are written out by hand."""

import socket
import threading
from ipaddress import IPv4Address, IPv4Network

import pytest
from switch_nics import PATIENCE, Nic, packed, pcap

from pytest_qemuvm.host.switch import Switchboard, exchange, flows, frames, tcp
from pytest_qemuvm.host.switch.station import station_mac
from pytest_qemuvm.host.switch.tcp import ACK, FIN, PSH, RST, SYN, TcpSegment
from pytest_qemuvm.spec.segment import Addressing
from pytest_qemuvm.spec.services import checked_offer

STATION, GATEWAY = station_mac("net0"), IPv4Address("10.1.2.1").packed


class Guest(Nic):
    """One that speaks some TCP and UDP."""

    @property
    def address(self):
        return IPv4Address(self.port.ip).packed

    def says(self, flags, sequence=100, acknowledged=0, payload=b"", *, port=1000, to=80):
        segment = TcpSegment(port, to, sequence, acknowledged, flags, 60000, payload)
        self._packet(frames.TCP, segment.encoded(self.address, GATEWAY))

    def asks(self, payload, port=1000):
        self._packet(frames.UDP, frames.Datagram(port, 80, payload).encoded(self.address, GATEWAY))

    def _packet(self, protocol, data):
        packet = frames.Packet(self.address, GATEWAY, protocol, data)
        self.socket.send(frames.Ethernet(STATION, packed(self.mac), frames.IPV4, packet.encoded()).encoded())

    def packet(self):
        frame = frames.ethernet(self.receive())
        assert (frame.destination, frame.source) == (packed(self.mac), STATION)
        return frames.ipv4(frame.payload)

    def hears(self):
        return tcp.segment(self.packet())

    def opens(self, port=1000):
        """Open a connection; return the number that is next from the other end."""
        self.says(SYN, port=port)
        greeting = self.hears()
        assert (greeting.flags, greeting.acknowledged) == (SYN | ACK, 101)
        self.says(ACK, 101, greeting.sequence + 1, port=port)
        return greeting.sequence + 1


@pytest.fixture
def board():
    board = Switchboard()
    yield board
    board.close()


@pytest.fixture
def segment(board):
    return board.segment("net0", Addressing(IPv4Network("10.1.2.0/24")))


@pytest.fixture
def guest(segment):
    guest = Guest(segment, 0, "10.1.2.10")
    yield guest
    guest.socket.close()


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as sock:
        sock.settimeout(PATIENCE)
        yield sock


@pytest.fixture
def service(segment, listener):
    return segment.serve(checked_offer(80, listener.getsockname(), "tcp"))


def accepted(listener):
    connection, _ = listener.accept()
    connection.settimeout(PATIENCE)
    return connection


def test_a_connection_from_one_end_to_the_other(segment, guest, service, listener, tmp_path):
    capture = segment.capture(tmp_path / "all.pcap")
    number = guest.opens()
    with accepted(listener) as host:
        guest.says(ACK | PSH, 101, number, b"to the host")
        assert host.recv(100) == b"to the host"
        assert guest.hears()[3:5] == (112, ACK)
        host.sendall(b"to the guest")
        said = guest.hears()
        assert (said.payload, said.sequence % 2**32) == (b"to the guest", number % 2**32)
        guest.says(ACK | FIN, 112, number + 12)
        assert host.recv(100) == b""
        assert guest.hears()[3:5] == (113, ACK)
        host.sendall(b"more")
        assert guest.hears().payload == b"more"
        guest.says(ACK, 113, number + 16)
    assert guest.hears().flags == ACK | FIN
    guest.says(ACK, 113, number + 17)
    guest.says(ACK, 113, number + 17)
    assert guest.hears().flags == RST
    assert service.connections == 1
    capture.close()
    assert sum(frame[6:12] == STATION for _, frame in pcap(tmp_path / "all.pcap")) == 7


def test_an_open_connection_on_which_nothing_is_said_takes_no_turn(board, guest, service, listener):
    number = guest.opens()
    with accepted(listener) as host:
        host.sendall(b"x")
        guest.hears()
        guest.says(ACK, 101, number + 1)
        guest.socket.settimeout(1.2)
        with pytest.raises(TimeoutError):  # the time-out of what was acknowledged has been set, and passes
            guest.receive()
        rounds = board._reactor.call(lambda: board._reactor.rounds)
        guest.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            guest.receive()
        assert board._reactor.call(lambda: board._reactor.rounds) <= rounds + 2


def test_a_guest_that_has_ended_both_ways_while_the_host_does_not_read_takes_no_turn(
    board, segment, guest, tmp_path
):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        segment.serve(checked_offer(80, tmp_path / "socket", "tcp"))
        number = guest.opens()
        host = accepted(listener)
    with host:
        host.shutdown(socket.SHUT_WR)
        assert guest.hears().flags == ACK | FIN
        sequence = 101
        while True:
            guest.says(ACK, sequence, number + 1, bytes(1400))
            said = guest.hears()
            sequence = said.acknowledged
            if said.window < 1400:
                break
        guest.says(ACK | FIN, sequence, number + 1)
        assert guest.hears().acknowledged == sequence + 1
        guest.socket.settimeout(1.5)
        with pytest.raises(TimeoutError):  # until it is forgotten that the last word may be lost
            guest.receive()
        rounds = board._reactor.call(lambda: board._reactor.rounds)
        guest.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            guest.receive()
        assert board._reactor.call(lambda: board._reactor.rounds) <= rounds + 2
        got = 0
        while data := host.recv(1 << 16):
            got += len(data)
        assert got == sequence - 101


def test_there_are_no_more_connections_than_so_many(guest, service, listener, monkeypatch):
    monkeypatch.setattr(exchange, "MOST", 3)
    for port in (1, 2, 3):
        guest.opens(port)
    guest.says(SYN, port=4)
    assert guest.hears()[4:6] == (RST | ACK, 0)
    guest.says(RST, 101, port=2)
    guest.opens(5)


def test_a_busy_unix_socket_is_asked_again(segment, guest, tmp_path):
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(tmp_path / "socket"))
        busy.listen(0)
        segment.serve(checked_offer(80, tmp_path / "socket", "tcp"))
        guest.opens(1)
        guest.says(SYN, port=2)
        guest.says(SYN, port=3, to=81)
        assert guest.hears().target == 3  # and nothing for the second
        connection, _ = busy.accept()
        guest.opens(2)
        connection.close()


def test_segments_that_are_damaged_or_for_nobody(segment, guest, service, listener):
    other = Guest(segment, 1, "10.1.2.11")
    segment_ = bytearray(TcpSegment(1000, 80, 100, 0, SYN, 60000).encoded(guest.address, GATEWAY))
    segment_[4] ^= 1
    guest._packet(frames.TCP, bytes(segment_))
    guest.says(RST, 5)
    assert guest.reaches(other) == []
    guest.says(ACK, 5, 77)
    assert guest.hears()[2:5] == (77, 0, RST)
    other.socket.close()


def test_what_is_left_when_a_segment_is_closed(board, segment, guest, service, listener):
    guest.opens()
    with accepted(listener) as host:
        segment.close()
        with pytest.raises(ConnectionResetError):
            host.recv(1)
    service.close()
    other = board.segment("net0", Addressing(IPv4Network("10.1.2.0/24")))
    other.close()


class TestDatagrams:
    @pytest.fixture
    def echo(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            thread = threading.Thread(target=self.answer, args=(sock,))
            thread.start()
            yield sock
            sock.sendto(b"", sock.getsockname())
            thread.join()

    def answer(self, sock):
        while True:
            data, who = sock.recvfrom(70000)
            if not data:
                return
            sock.sendto(data * 2, who)

    @pytest.fixture
    def service(self, segment, echo):
        return segment.serve(checked_offer(80, echo.getsockname(), "udp"))

    def heard(self, guest):
        datagram = frames.udp(guest.packet())
        assert datagram.source == 80
        return datagram.target, datagram.payload

    def test_there_and_back(self, guest, service):
        for port in (1000, 1001, 1000):
            guest.asks(b"ho%d" % port, port)
            assert self.heard(guest) == (port, b"ho%d" % port * 2)
        assert service.connections == 2
        guest.asks(bytes(flows.LONGEST // 2 + 1))  # the answer is in no frame
        guest.asks(b"x")
        assert self.heard(guest)[1] == b"xx"

    def test_the_oldest_makes_room(self, guest, service, monkeypatch):
        monkeypatch.setattr(flows, "MOST", 2)
        for port in (1, 2, 1, 3, 1, 2):
            guest.asks(b"%d" % port, port)
            assert self.heard(guest)[0] == port
        assert service.connections == 4

    def test_who_is_silent_is_forgotten(self, segment, guest, service, monkeypatch):
        monkeypatch.setattr(flows, "IDLE", 0.05)
        guest.asks(b"x")
        self.heard(guest)
        guest.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            guest.receive()
        assert segment._station.exchange._flows._flows == {}

    def test_nobody_there(self, segment, guest):
        other = Guest(segment, 1, "10.1.2.11")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            address = gone.getsockname()
        with segment.serve(checked_offer(80, address, "udp")):
            for _ in range(3):
                guest.asks(b"x")
            assert guest.reaches(other) == []
        guest.asks(b"x")
        assert guest.reaches(other) == []
        other.socket.close()
