"""The switch, with a test at the other end of each line."""

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from switch_nics import EVERYBODY, Nic, mac, meet, pcap

from pytest_qemuvm.errors import HostFileError, QemuVMError, SpecError
from pytest_qemuvm.host.switch import Switchboard
from pytest_qemuvm.host.switch.fabric import LEARNED
from pytest_qemuvm.host.switch.jack import LONGEST, QUEUED_FRAMES


@pytest.fixture
def board():
    board = Switchboard()
    yield board
    board.close()


@pytest.fixture
def segment(board):
    return board.segment("net0", None)


@pytest.fixture
def nics(segment):
    nics = [Nic(segment, number) for number in range(3)]
    yield nics
    for nic in nics:
        nic.socket.close()


def descriptors():
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names, not paths


def counters(nic):
    return nic.port.counters


# What a switch does


def test_a_frame_for_nobody_known_goes_to_all_others(nics):
    a, b, c = nics
    frame = a.send(b, b"hello")
    assert b.receive() == frame
    assert c.receive() == frame
    c.reaches(a)
    assert a.waiting() == []


def test_a_frame_for_somebody_known_goes_to_nobody_else(nics):
    a, b, c = nics
    meet(*nics)
    frame = a.send(b, b"hello")
    assert b.receive() == frame
    assert a.reaches(c) == []


def test_a_line_goes_over_to_another_port_with_whoever_is_on_it(board, nics):
    a, b, c = nics
    other = board.segment("net1", None)
    moved, there = Nic(other, 7), Nic(other, 8)
    moved.port.take_over(a.port)
    before, a.port = a.port, moved.port
    meet(a, there)
    frame = there.send(a, b"to the one that moved")
    assert a.receive() == frame
    b.send(EVERYBODY, b"who is left")
    assert c.receive()[14:] == b"who is left"
    assert a.waiting() == []
    assert before.counters.dropped == {"absent": 1}
    before.close()
    a.reaches(there)
    for nic in (moved, there):
        nic.socket.close()


@pytest.mark.parametrize("group", [EVERYBODY, "33:33:00:00:00:01", "01:80:c2:00:00:00"])
def test_a_frame_for_a_group_goes_to_all_others(nics, group):
    a, b, c = nics
    meet(*nics)
    for _ in range(2):
        a.send(group, b"all")
        assert b.receive() == c.receive() == a.frame(group, b"all")
    assert b.reaches(a) == []


def test_an_address_that_moves_is_followed(nics):
    a, b, c = nics
    meet(*nics)
    a.reaches(b)
    c.send(a, b"I have moved", source=b.mac)
    assert a.receive()[14:] == b"I have moved"
    frame = a.send(b, b"where are you")
    assert c.receive() == frame
    a.reaches(c)
    assert b.waiting() == []


def test_what_is_behind_the_same_line_is_not_sent_back(nics):
    a, b, c = nics
    meet(*nics)
    a.send(EVERYBODY, b"", source="52:54:00:bb:00:01")
    assert b.receive() == c.receive()
    a.send("52:54:00:bb:00:01", b"among us")
    assert a.reaches(b) == []
    assert b.reaches(c) == []
    assert a.waiting() == []


def test_a_group_is_nobodys_address(nics):
    a, b, c = nics
    meet(*nics)
    a.send(b, b"", source="01:00:5e:00:00:01")
    assert b.receive()
    c.send("01:00:5e:00:00:01", b"group")
    assert a.receive()[14:] == b.receive()[14:] == b"group"


def test_an_address_behind_a_port_that_is_closed_is_forgotten(segment, nics):
    a, b, c = nics
    meet(*nics)
    a.reaches(b)
    b.port.close()
    assert segment.ports == (a.port, c.port)
    frame = a.send(b, b"anybody?")
    assert c.receive() == frame


def test_one_that_invents_addresses_makes_the_switch_forget_and_not_grow(segment, nics):
    a, b, c = nics
    for number in range(LEARNED + 100):
        a.send(a, b"", source=f"52:54:00:{number >> 8:02x}:{number & 255:02x}:00")
        if number % 50 == 0:
            a.reaches_all(b, c)
    a.reaches_all(b, c)
    meet(*nics)
    assert len(segment._fabric._learned) <= LEARNED
    assert a.reaches(b) == []


@pytest.mark.parametrize("size", [14, 15, 60, 1514, 9018, 65550, LONGEST])
def test_frames_of_every_size_pass_as_they_are(nics, size):
    a, b, _ = nics
    frame = a.frame(b, b"")[:12] + random.Random(size).randbytes(size - 12)
    a.socket.send(frame)
    assert b.receive() == frame


def test_tags_of_virtual_networks_pass_as_they_are(nics):
    a, b, _ = nics
    frame = a.frame(b, b"\x00\x2a\x08\x00" + b"tagged", kind=0x8100)
    a.socket.send(frame)
    assert b.receive() == frame


def test_what_is_no_frame_is_counted_and_goes_nowhere(nics):
    a, b, _ = nics
    for size in (0, 1, 13):
        a.socket.send(bytes(size))
    a.socket.send(bytes(LONGEST + 1))
    assert a.reaches(b) == []
    assert counters(a).dropped == {"runt": 3, "oversize": 1}
    assert counters(a).received == 5


def test_garbage_does_no_harm(nics):
    a, b, c = nics
    dice = random.Random(7)
    for _ in range(300):
        a.socket.send(dice.randbytes(dice.choice((13, 14, 20, 60, 300))))
    a.reaches_all(b, c)
    meet(a, b, c)


def test_segments_of_one_switchboard_hear_nothing_of_each_other(board, nics):
    a, b, _ = nics
    other = board.segment("net1", None)
    x, y = Nic(other, 0), Nic(other, 1)
    a.send(EVERYBODY, b"here")
    x.send(EVERYBODY, b"there")
    assert b.receive()[14:] == b"here"
    assert y.receive()[14:] == b"there"
    other.close()
    a.reaches(b)
    x.socket.close()
    y.socket.close()


# Lines that come and go


def test_a_port_outlives_its_machines(nics):
    a, b, _ = nics
    meet(*nics)
    b.socket.close()
    a.send(b, b"lost")
    a.send(b, b"lost, too")
    a.reaches(nics[2])
    assert counters(b).dropped == {"absent": 2}
    b.renew()
    assert a.reaches(b) == []
    b.reaches(a)


def test_what_waited_for_a_machine_before_is_not_for_the_next(nics):
    a, b, c = nics
    meet(*nics)
    for _ in range(500):
        a.send(b, bytes(1000))
    a.reaches(c)
    b.renew()
    assert a.reaches(b) == []
    assert counters(b).dropped["absent"] > 0


def test_frames_for_a_machine_that_was_never_there_are_counted(segment, nics):
    port = segment.connect("later", mac(9), None)
    nics[0].send(EVERYBODY, b"")
    nics[0].reaches(nics[1])
    assert port.counters.dropped["absent"] == 2
    with port.renew_peer() as peer:
        nics[0].send(EVERYBODY, b"now")
        assert peer.recv(100)[14:] == b"now"


def test_one_that_does_not_read_loses_its_own_frames_and_nobody_elses(nics):
    a, b, c = nics
    meet(*nics)
    count = 3000
    for number in range(count):
        a.send(b, b"%d" % number)
        if number % 50 == 0:
            assert a.reaches(c) == []
    a.reaches(c)
    dropped = counters(b).dropped["full"]
    assert 0 < dropped <= count - QUEUED_FRAMES
    got = [int(b.receive()[14:]) for _ in range(count - dropped)]
    assert got == list(range(count - dropped))
    assert a.reaches(b) == []
    assert counters(b).dropped == {"full": dropped}
    assert counters(c).dropped == {}


def test_a_queue_is_bounded_in_bytes_too(nics):
    a, b, c = nics
    meet(*nics)
    for number in range(200):
        a.send(b, bytes(60000))
        if number % 2:
            a.reaches(c)
    a.reaches(c)
    assert counters(b).dropped["full"] > 100
    assert len(b.waiting()) > 1


def test_counters(nics):
    a, b, _ = nics
    meet(a, b, nics[2])
    before = counters(b)
    a.send(b, bytes(86))
    a.send(b, bytes(186))
    b.receive(), b.receive()
    b.reaches(a)
    after = counters(b)
    assert (after.sent - before.sent, after.sent_bytes - before.sent_bytes) == (2, 300)
    assert after.received - before.received == 1


def test_ports_that_cannot_be(segment, nics):
    for label, address, ip, names in (
        ("vm0/nic0", mac(9), None, ()),
        ("vm9/nic0", mac(0).upper(), None, ()),
        ("vm9/nic0", "01:00:00:00:00:01", None, ()),
        ("vm9/nic0", "52:54", None, ()),
        ("vm9/nic0", mac(9), "10.0.0", ()),
        ("vm9/nic0", mac(9), None, ("no name",)),
        ("vm9/nic0", mac(9), None, ("x" * 64,)),
    ):
        with pytest.raises(SpecError):
            segment.connect(label, address, ip, names)
    assert len(segment.ports) == 3


# The thread


def test_there_is_no_thread_before_the_first_port():
    before = threading.active_count()
    board = Switchboard()
    segment = board.segment("net0", None)
    assert threading.active_count() == before
    segment.connect("a", mac(1), None)
    board.segment("net1", None).connect("a", mac(1), None)
    assert threading.active_count() == before + 1
    board.close()
    assert threading.active_count() == before


def test_nothing_is_left_of_a_switchboard(tmp_path):
    before = descriptors()
    board = Switchboard()
    segment = board.segment("net0", None)
    nics = [Nic(segment, number) for number in range(3)]
    rule = segment.partition([[nics[0].port], [nics[1].port]])
    capture = segment.capture(tmp_path / "all.pcap")
    board.close()
    board.close()
    for nic in nics:
        nic.port.close()
        nic.socket.close()
    segment.close()
    rule.remove()
    capture.close()
    assert segment.ports == ()
    assert descriptors() == before
    with pytest.raises(QemuVMError):
        segment.connect("late", mac(9), None)
    with pytest.raises(QemuVMError):
        nics[0].port.renew_peer()


def test_a_switch_with_nothing_to_do_does_nothing(board, nics):
    meet(*nics)
    rounds = board._reactor.call(lambda: board._reactor.rounds)
    nics[0].socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        nics[0].receive()
    # Our own question wakes it up, and the one before may have left it a wake-up.
    assert board._reactor.call(lambda: board._reactor.rounds) <= rounds + 2


def test_ports_from_many_threads(segment):
    with ThreadPoolExecutor(8) as pool:
        nics = list(pool.map(lambda number: Nic(segment, number), range(40)))
        assert len(segment.ports) == 40
        nics[0].send(EVERYBODY, b"all")
        assert all(nic.receive()[14:] == b"all" for nic in nics[1:])
        list(pool.map(lambda nic: nic.port.close(), nics))
    for nic in nics:
        nic.socket.close()
    assert segment.ports == ()


def test_what_fails_on_the_thread_is_raised_at_the_next_call_and_the_rest_goes_on(
    board, segment, nics, monkeypatch
):
    a, b, c = nics
    meet(*nics)
    enter = segment._fabric.enter

    def fail(source, frame):
        if frame[14:] == b"poison":
            raise ZeroDivisionError
        enter(source, frame)

    monkeypatch.setattr(segment._fabric, "enter", fail)
    a.send(b, b"poison")
    c.reaches(b)
    a.reaches(b)
    with pytest.raises(QemuVMError) as caught:
        segment.connect("late", mac(9), None)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "fail" in caught.value.details
    segment.connect("late", mac(9), None)
    a.send(b, b"poison")
    a.reaches(b)
    with pytest.raises(QemuVMError):
        board.close()
    board.close()
    assert segment.ports == ()


def test_nobody_waits_for_a_thread_that_has_died(board, segment, nics):
    before = descriptors()
    # Nothing else is outside of the net that is below every handler.
    board._reactor._wait = None
    nics[0].send(nics[1], b"wake up")
    board._reactor._thread.join()
    with pytest.raises(QemuVMError) as caught:
        segment.connect("late", mac(9), None)
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(QemuVMError):
        segment.connect("late", mac(9), None)
    board.close()
    # Three of the ports' and two of the thread's.
    assert len(before - descriptors()) == 5


# Recordings


def test_a_capture_has_all_frames_whole(segment, nics, tmp_path):
    a, b, c = nics
    meet(*nics)
    capture = segment.capture(tmp_path / "all.pcap")
    sent = [a.send(b, bytes(size)) for size in (0, 1500, 65536)] + [c.send(a, b"x")]
    b.receive(), b.receive(), b.receive()
    assert a.receive() == sent[-1]
    capture.close()
    capture.close()
    a.reaches(b)
    times, frames = zip(*pcap(tmp_path / "all.pcap"), strict=True)
    assert sorted(frames) == sorted(sent)
    assert [frame for frame in frames if frame in sent[:3]] == sent[:3]
    assert list(times) == sorted(times)


def test_a_capture_of_one_port(segment, nics, tmp_path):
    a, b, c = nics
    meet(*nics)
    capture = segment.capture(tmp_path / "b.pcap", b.port)
    a.send(c, b"not seen")
    rule = segment.block([c.port], [b.port])
    c.send(b, b"does not get there")
    c.reaches(a)
    frames = [a.send(b, b"to"), b.send(a, b"from")]
    a.until(b"from"), b.until(b"to")
    capture.close()
    rule.remove()
    assert sorted(frame for _, frame in pcap(tmp_path / "b.pcap")) == sorted(frames)


def test_the_last_frames_are_always_there(segment, nics, tmp_path):
    a, b, _ = nics
    meet(*nics)
    sent = [a.send(b, b"%d" % number) for number in range(50)]
    assert [b.receive() for _ in sent] == sent
    assert segment.write_recent(tmp_path / "recent.pcap") == 53
    assert [frame for _, frame in pcap(tmp_path / "recent.pcap")][3:] == sent
    for _ in range(40):
        a.send(b, bytes(60000))
        b.receive()
    count = segment.write_recent(tmp_path / "recent.pcap")
    assert count < 20
    assert (tmp_path / "recent.pcap").stat().st_size < 1 << 20
    assert len(pcap(tmp_path / "recent.pcap")) == count


def test_a_capture_that_cannot_be_written(segment, nics, tmp_path):
    a, b, _ = nics
    with pytest.raises(HostFileError):
        segment.capture(tmp_path / "none" / "all.pcap")
    with pytest.raises(HostFileError):
        segment.write_recent(tmp_path)
    full = segment.capture(type(tmp_path)("/dev/full"))
    for _ in range(100):
        a.send(b, bytes(1000))
        b.receive()
    with pytest.raises(HostFileError):
        full.close()
    full.close()
    a.reaches(b)
