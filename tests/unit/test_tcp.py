"""TCP's end in the switch: bytes on the wire, and a connection over lines that lose, double and shuffle."""

import heapq
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_qemuvm.host.switch import frames, tcp
from pytest_qemuvm.host.switch.tcp import ACK, FIN, PSH, RST, SYN, TcpSegment
from pytest_qemuvm.host.switch.tcp_connection import LINGER, PATIENCE, ROOM, Connection
from pytest_qemuvm.host.switch.tcp_receiver import PIECES, Receiver
from pytest_qemuvm.host.switch.tcp_sender import LIMIT, Sender

HOST, GUEST = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 9])
NUMBERS = st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 5000, 2**32 - 1))
FOR_EVER = 3000.0


def over_the_wire(segment, source=GUEST, target=HOST):
    packet = frames.Packet(source, target, frames.TCP, segment.encoded(source, target))
    return tcp.segment(packet)


# Bytes


@given(
    st.builds(
        TcpSegment,
        source=st.integers(0, 65535), target=st.integers(0, 65535), sequence=NUMBERS, acknowledged=NUMBERS,
        flags=st.sampled_from([ACK, ACK | PSH, FIN | ACK, RST]), window=st.integers(0, 65535),
        payload=st.binary(max_size=100), mss=st.none(), scale=st.none(),
    )
)  # fmt: skip
def test_what_is_written_is_read(segment):
    assert over_the_wire(segment) == segment
    data = bytearray(segment.encoded(GUEST, HOST))
    data[-1] ^= 1
    assert tcp.segment(frames.Packet(GUEST, HOST, frames.TCP, bytes(data))) is None
    assert tcp.segment(frames.Packet(GUEST, GUEST, frames.TCP, segment.encoded(GUEST, HOST))) is None


@given(st.integers(64, 65535), st.integers(0, 14))
def test_what_is_said_with_the_first_segment(mss, scale):
    segment = TcpSegment(1, 2, 3, 0, SYN, 100, b"", mss, scale)
    assert over_the_wire(segment) == segment


@given(st.binary(max_size=80))
def test_garbage_is_none(data):
    assert tcp.segment(frames.Packet(GUEST, HOST, frames.TCP, data)) is None or len(data) >= 20


@pytest.mark.parametrize("options", [b"\2", b"\2\0", b"\3\0\0\0", b"\2\4\0\1", b"\0\2\4\5", b"\2\5\5"])
def test_options_that_are_none_do_no_harm(options):
    options = options.ljust(4, b"\0")
    head = bytes([0, 1, 0, 2]) + bytes(8) + bytes([(20 + len(options)) << 2, SYN]) + bytes(2)
    data = head + bytes(4) + options
    summed = frames.checksum(frames.pseudo(GUEST, HOST, frames.TCP, len(data)) + data)
    segment = tcp.segment(frames.Packet(GUEST, HOST, frames.TCP, data[:16] + summed.to_bytes(2) + data[18:]))
    assert segment is not None
    assert segment.mss in (None, 64)


@given(st.integers(0, 2**40), st.integers(-(2**31), 2**31 - 1))
def test_numbers_begin_again_and_are_found(known, distance):
    assert tcp.near((known + distance) % 2**32, known) == known + distance


# A whole connection


class Peer:
    """The other end, as simple as it can be: it keeps nothing that comes early, and sends all again."""

    def __init__(self, dice, data, first, *, mss, scale, window):
        self.dice, self.data = dice, data
        self.first, self.sent, self.heard = first + 1, 0, 0
        self.mss, self.scale, self.window = mss, scale, window
        self.got = bytearray()
        self.unread = 0
        self.expects = None
        self.their_window = self.their_scale = 0
        self.ended = self.reset = False

    @property
    def total(self):
        return len(self.data) + 1

    @property
    def done(self):
        return self.ended and self.heard == self.total

    def segment(self, flags, sequence, payload=b"", **options):
        window = max(0, self.window - self.unread)
        shown = window if flags & SYN else window >> (self.scale or 0)
        acknowledged = (self.expects or 0) % 2**32
        return TcpSegment(
            1000, 80, sequence % 2**32, acknowledged, flags, min(shown, 65535), payload, **options
        )

    def again(self):
        """Say everything again that was not acknowledged."""
        if self.expects is None:
            return [self.segment(SYN, self.first - 1, mss=self.mss, scale=self.scale)]
        self.sent = self.heard
        return self.more() or [self.segment(ACK, self.first + self.sent)]

    def more(self):
        said = []
        limit = self.heard + max(self.their_window, 1)
        while self.sent < min(self.total, limit):
            payload = self.data[self.sent : min(self.sent + self.mss, limit)]
            last = self.sent + len(payload) == len(self.data)
            fits = last and self.sent + len(payload) < limit
            if not payload and not fits:
                break
            said.append(self.segment(ACK | (FIN if fits else 0), self.first + self.sent, payload))
            self.sent += len(payload) + fits
        return said

    def read(self):
        """Make room, now and then."""
        self.unread = self.dice.randrange(self.unread + 1)

    def hear(self, heard):
        if heard.flags & RST:
            self.reset = True
            return []
        if heard.flags & SYN:
            if self.expects is None:
                self.expects = heard.sequence + 1
                self.their_scale = heard.scale or 0
                self.their_window = heard.window
            return [self.segment(ACK, self.first + self.sent), *self.more()]
        if self.expects is None:
            return []
        acknowledged = tcp.near(heard.acknowledged, self.first + self.heard) - self.first
        assert acknowledged <= self.total
        if acknowledged >= self.heard:
            self.heard = acknowledged
            self.sent = max(self.sent, self.heard)
            self.their_window = heard.window << self.their_scale
        said = self.more()
        if heard.size or tcp.near(heard.sequence, self.expects) < self.expects:
            self.take(heard)
            said.append(self.segment(ACK, self.first + self.sent))
        return said

    def take(self, heard):
        begins = tcp.near(heard.sequence, self.expects)
        skip = self.expects - begins
        if skip < 0 or self.ended:
            return
        payload = heard.payload[skip:]
        room = max(0, self.window - self.unread)
        payload, cut = payload[:room], len(payload) > room
        self.got += payload
        self.unread += len(payload)
        self.expects += len(payload)
        if heard.flags & FIN and not cut and skip <= len(heard.payload):
            self.expects += 1
            self.ended = True


class Line:
    """Loses, doubles and delays what is on it."""

    def __init__(self, dice, loss, double, delay):
        self.dice, self.loss, self.double, self.delay = dice, loss, double, delay
        self.under_way = []
        self.numbers = itertools.count()

    def send(self, now, target, segments):
        for segment in segments:
            for _ in range(2 if self.dice.random() < self.double else 1):
                if self.dice.random() >= self.loss:
                    when = now + self.dice.uniform(0.001, 0.001 + self.delay)
                    heapq.heappush(self.under_way, (when, next(self.numbers), target, segment))


class Talk:
    """A peer and a connection, with a line between them, until both have everything."""

    def __init__(self, seed, upload, download, firsts, line, *, mss=1460, scale=7, window=60000):
        self.dice = random.Random(seed)
        self.upload, self.download = upload, download
        self.peer = Peer(self.dice, upload, firsts[0], mss=mss, scale=scale, window=window)
        self.line = Line(self.dice, *line)
        self.first = firsts[1]
        self.connection = None
        self.host = bytearray()
        """What came out at the host."""
        self.given, self.now, self.next_try = 0, 0.0, 0.0

    @property
    def done(self):
        if self.connection is None or not self.connection.is_over or len(self.host) < len(self.upload):
            return False
        # One whose last word is never acknowledged hears in the end that the connection is no more.
        return self.peer.done or (self.connection.phase == "closed" and self.peer.ended)

    def run(self):
        while not self.done:
            assert self.now < FOR_EVER, (vars(self.peer), vars(self.connection or self.peer))
            moments = [self.next_try, *(entry[0] for entry in self.line.under_way[:1])]
            if self.connection is not None and self.connection.due is not None:
                moments.append(self.connection.due)
            self.now = max(self.now, min(moments))
            self.peers_turn()
            self.deliver()
            if self.connection is not None:
                self.hosts_turn(self.connection)
        return self

    def peers_turn(self):
        self.peer.read()
        if self.now >= self.next_try:
            self.next_try = self.now + 0.4
            if not self.peer.done:
                self.line.send(self.now, "host", map(over_the_wire, self.peer.again()))

    def deliver(self):
        while self.line.under_way and self.line.under_way[0][0] <= self.now:
            _, _, target, segment = heapq.heappop(self.line.under_way)
            if target == "peer":
                self.line.send(self.now, "host", map(over_the_wire, self.peer.hear(segment)))
            elif self.connection is None:
                self.connection = Connection(segment, self.first, self.now)
                self.connection.accept(self.now)
            else:
                self.connection.hear(segment, self.now)

    def hosts_turn(self, connection):
        connection.tick(self.now)
        assert len(connection.receiver.ready) <= ROOM
        if self.dice.random() < 0.7:
            count = self.dice.randrange(len(connection.receiver.ready) + 1)
            self.host += connection.receiver.ready[:count]
            connection.taken(count)
        piece = min(connection.sender.room, self.dice.randrange(1, 9000))
        connection.give(self.download[self.given : self.given + piece])
        self.given = min(self.given + piece, len(self.download))
        if self.given == len(self.download):
            connection.finish()
        assert connection.sender.room >= 0
        self.line.send(self.now, "peer", map(over_the_wire, connection.output(self.now)))


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32), sizes=st.tuples(st.integers(0, 150_000), st.integers(0, 150_000)),
    firsts=st.tuples(NUMBERS, NUMBERS),
    line=st.tuples(st.floats(0, 0.25), st.floats(0, 0.2), st.floats(0, 0.3)),
    mss=st.sampled_from([None, 64, 536, 1460, 9000]), scale=st.sampled_from([None, 0, 2, 9]),
    window=st.sampled_from([700, 5000, 60000]),
)  # fmt: skip
def test_bad_lines_lose_no_byte_and_keep_the_order(seed, sizes, firsts, line, mss, scale, window):
    mss = mss or tcp.MSS_UNSAID
    # The same number of segments, however short they are.
    upload, download = (random.Random(size).randbytes(size * mss // 3000) for size in sizes)
    talk = Talk(seed, upload, download, firsts, line, mss=mss, scale=scale, window=window).run()
    assert talk.host == upload
    assert talk.peer.got == download
    assert not talk.connection.broken
    assert not talk.peer.reset


def test_a_good_line_needs_nothing_twice():
    data = random.Random(1).randbytes(200_000)
    sent = []
    output = Connection.output

    def count(self, now):
        said = output(self, now)
        sent.extend(said)
        return said

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "output", count)
        talk = Talk(1, b"", data, (0, 0), (0, 0, 0), window=1 << 20).run()
    assert sum(len(segment.payload) for segment in sent) == len(data)
    assert talk.connection.sender.round_trip.timeout == 0.2


# What is said to what


ASKED = TcpSegment(1000, 80, 500, 0, SYN, 60000, b"", 1000, 0)


def heard(flags, sequence=501, acknowledged=9001, payload=b"", window=60000):
    return TcpSegment(1000, 80, sequence, acknowledged, flags, window, payload)


def opened(now=0.0):
    connection = Connection(ASKED, 9000, now)
    connection.accept(now)
    (greeting,) = connection.output(now)
    assert (greeting.flags, greeting.sequence, greeting.acknowledged) == (SYN | ACK, 9000, 501)
    assert (greeting.mss, greeting.scale) == (1460, 2)
    connection.hear(heard(ACK), now)
    assert connection.phase == "open"
    assert connection.output(now) == []
    assert connection.due is None
    return connection


def flags(segments):
    return [segment.flags & ~PSH for segment in segments]


def test_one_that_is_refused_is_told():
    connection = Connection(ASKED, 9000, 0)
    connection.abort()
    (said,) = connection.output(0)
    assert said == TcpSegment(80, 1000, 0, 501, RST | ACK, said.window)
    assert connection.broken


def test_segments_of_no_connection():
    assert tcp.refusal(heard(RST)) is None
    assert tcp.refusal(ASKED)[2:5] == (0, 501, RST | ACK)
    assert tcp.refusal(heard(ACK, payload=b"abc"))[2:5] == (9001, 0, RST)


def test_a_greeting_is_said_again_and_not_for_ever():
    connection = Connection(ASKED, 9000, 0)
    connection.accept(0)
    said = 0
    while connection.due is not None:
        now = connection.due
        said += len(connection.output(now))
        connection.tick(now)
    assert connection.broken
    assert flags(connection.output(now)) == [RST | ACK]
    assert said == 6


def test_a_greeting_that_is_answered_wrongly():
    connection = Connection(ASKED, 9000, 0)
    connection.accept(0)
    connection.output(0)
    connection.hear(heard(ACK, acknowledged=77), 0)
    (said,) = connection.output(0)
    assert (said.flags, said.sequence) == (RST, 77)
    assert connection.phase == "greeting"


def test_only_the_very_reset_ends_it():
    connection = opened()
    connection.hear(heard(RST, sequence=400), 0)
    assert connection.output(0) == []
    connection.hear(heard(RST, sequence=502), 0)
    connection.hear(heard(SYN, sequence=700), 0)
    assert flags(connection.output(0)) == [ACK]
    connection.hear(heard(ACK, acknowledged=50_000), 0)
    assert flags(connection.output(0)) == [ACK]
    connection.hear(heard(RST), 0)
    assert (connection.phase, connection.broken) == ("closed", True)
    assert connection.output(0) == []


def test_each_direction_ends_by_itself():
    connection = opened()
    connection.hear(heard(ACK | FIN, payload=b"question"), 0)
    assert flags(connection.output(0)) == [ACK]
    assert bytes(connection.receiver.ready) == b"question"
    assert connection.receiver.ended
    connection.give(b"answer")
    connection.finish()
    (said,) = connection.output(0)
    assert (said.payload, said.flags) == (b"answer", ACK | FIN | PSH)
    connection.hear(heard(ACK, sequence=510, acknowledged=9008), 0)
    assert (connection.phase, connection.broken, connection.due) == ("closed", False, None)


def test_the_last_acknowledgement_may_be_lost():
    connection = opened()
    connection.finish()
    assert flags(connection.output(0)) == [ACK | FIN]
    last = heard(ACK | FIN, acknowledged=9002)
    connection.hear(last, 0)
    assert flags(connection.output(0)) == [ACK]
    connection.hear(last, 0.5)
    assert flags(connection.output(0.5)) == [ACK]
    assert connection.due == 0.5 + LINGER
    connection.tick(connection.due)
    assert connection.phase == "closed"


def test_a_loss_is_seen_by_what_came_after_it():
    connection = opened()
    connection.give(bytes(5000))
    first, *rest = connection.output(0)
    assert len(rest) == 4
    for _ in range(3):
        connection.hear(heard(ACK), 0.01)
    (again,) = connection.output(0.01)
    assert (again.sequence, len(again.payload)) == (first.sequence, 1000)
    connection.hear(heard(ACK, acknowledged=14001), 0.02)
    assert connection.output(0.02) == []
    assert connection.due is None


def test_what_is_not_acknowledged_is_said_again_until_patience_ends():
    connection = opened()
    connection.give(b"hello?")
    now, said = 0.0, 0
    while not connection.broken:
        for segment in connection.output(now):
            assert segment.payload == b"hello?"
            said += 1
        now = connection.due
        connection.tick(now)
    assert now > PATIENCE
    assert said > PATIENCE / 2


def test_a_long_silence_is_no_reason_to_give_up():
    connection = opened()
    late = PATIENCE * 3
    connection.give(b"good morning")
    assert len(connection.output(late)) == 1
    connection.tick(connection.due)
    assert len(connection.output(connection.due or late + 1)) == 1
    assert not connection.broken


def test_a_window_that_is_shut_is_asked_for():
    connection = opened()
    connection.hear(heard(ACK, window=0), 0)
    connection.give(b"patience")
    assert connection.output(0) == []
    now = connection.due
    connection.tick(now)
    (asks,) = connection.output(now)
    assert (asks.payload, asks.sequence) == (b"", 9000)
    connection.hear(heard(ACK, window=4), now)
    assert [segment.payload for segment in connection.output(now)] == [b"pati"]


def test_who_does_not_take_shuts_the_window_and_who_takes_opens_it():
    connection = opened()
    sent = 0
    while connection.receiver.window() >= 1000:
        connection.hear(heard(ACK, sequence=501 + sent, payload=bytes(1000)), 0)
        sent += 1000
        connection.output(0)
    connection.hear(heard(ACK, sequence=501 + sent, payload=bytes(1000)), 0)
    assert len(connection.receiver.ready) == ROOM
    (said,) = connection.output(0)
    assert said.window == 0
    connection.taken(1000)
    assert connection.output(0) == []
    connection.taken(ROOM // 2)
    (said,) = connection.output(0)
    assert said.window << 2 >= ROOM // 2


def test_what_comes_early_is_kept_in_bounds():
    receiver = Receiver(0, 10_000, 1000)
    for number in range(PIECES * 2):
        receiver.hear(2 * number + 1, b"x", finishes=False)
    assert len(receiver._early) == PIECES
    receiver.hear(0, bytes(PIECES * 4), finishes=True)
    assert receiver.ended
    assert len(receiver.ready) == PIECES * 4
    assert receiver._early == []


def test_what_waits_to_be_sent_is_bounded():
    sender = Sender(0, 1000, 1 << 20)
    sender.give(bytes(LIMIT))
    assert sender.room == 0
    flying = sum(len(burst.payload) for burst in sender.bursts(0))
    assert flying == 10_000
