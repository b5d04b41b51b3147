"""What goes wrong on a line on purpose: when it does, how often, and that it ends."""

import math
import time

import pytest
from switch_nics import EVERYBODY, Nic, meet

from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.host.switch import Switchboard
from pytest_qemuvm.host.switch.stages import WAITING_BYTES
from pytest_qemuvm.spec.segment import Impairment


@pytest.fixture
def segment():
    board = Switchboard()
    yield board.segment("net0", None)
    board.close()


@pytest.fixture
def nics(segment):
    nics = [Nic(segment, number) for number in range(4)]
    meet(*nics)
    yield nics
    for nic in nics:
        nic.socket.close()


def numbers(nic, target, witness, count, size=0):
    """Send numbered frames; return the numbers of those that have come when all have been dealt with."""
    for number in range(count):
        nic.send(target, b"%d " % number + bytes(size))
        if number % 50 == 49:
            assert nic.reaches(witness) == []
    nic.reaches(witness)
    return [int(payload.split()[0]) for payload in target.waiting()]


def test_a_partition_keeps_its_sides_apart_and_nobody_else(segment, nics):
    a, b, c, d = nics
    rule = segment.partition([[a.port], [b.port, c.port]])
    a.send(b, b"over there")
    a.send(EVERYBODY, b"all")
    assert d.receive()[14:] == b"all"
    c.send(a, b"over there")
    c.reaches(b)
    c.reaches(d)
    assert a.waiting() == b.waiting() == []
    # One to b, one each to b and c, one to a.
    assert rule.hits == rule.counts["dropped"] == 4
    assert c.port.counters.dropped == {"rule": 1}
    rule.remove()
    rule.remove()
    assert a.reaches(b) == []
    assert b.reaches(a) == []
    assert rule.hits == 4


def test_a_block_goes_one_way(segment, nics):
    a, b, c, _ = nics
    rule = segment.block([a.port, b.port], [b.port])
    a.send(b, b"no")
    a.reaches(c)
    assert b.reaches(a) == []
    assert b.waiting() == []
    assert c.reaches(b) == []
    assert rule.hits == 1
    assert rule.seed is None


def test_a_rule_holds_when_the_call_returns_though_a_path_was_fast_before(segment, nics):
    a, b, c, _ = nics
    for number in range(50):
        a.reaches(b)
        rule = segment.block([a.port], [b.port])
        a.send(b, b"%d" % number)
        a.reaches(c)
        assert b.waiting() == []
        assert rule.hits == 1
        rule.remove()


def test_loss_is_as_often_as_it_was_asked_for_and_the_same_again(segment, nics):
    a, b, c, _ = nics
    outcomes = []
    for _ in range(2):
        rule = segment.impair(Impairment(loss=0.3, seed=11), [a.port], [b.port])
        came = numbers(a, b, c, 1000)
        assert rule.hits == rule.counts["lost"] == 1000 - len(came)
        assert came == sorted(came)
        outcomes.append(came)
        rule.remove()
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0]) == 700


@pytest.mark.parametrize("share", [0.001, 0.0125, 0.07, 0.1, 0.5, 0.999])
def test_of_each_thousand_frames_just_that_share_is_lost(segment, nics, share):
    a, b, c, _ = nics
    rule = segment.impair(Impairment(loss=share, seed=2), [a.port], [b.port])
    lost = []
    for _ in range(2):
        before = rule.hits
        numbers(a, b, c, 1000)
        lost.append(rule.hits - before)
    assert sum(lost) == round(2000 * share)
    assert abs(lost[0] - 1000 * share) < 1


def test_the_fate_of_a_line_does_not_hang_on_others(segment, nics):
    a, b, c, d = nics
    outcomes = []
    for others in (0, 30):
        rule = segment.impair(Impairment(loss=0.5, seed=5), None, [b.port])
        numbers(d, b, c, others)
        outcomes.append(numbers(a, b, c, 100))
        rule.remove()
    assert outcomes[0] == outcomes[1]


def test_without_a_seed_one_is_chosen_that_gives_the_same_again(segment, nics):
    a, b, c, _ = nics
    rule = segment.impair(Impairment(loss=0.5), [a.port], [b.port])
    came = numbers(a, b, c, 200)
    rule.remove()
    again = segment.impair(Impairment(loss=0.5, seed=rule.seed), [a.port], [b.port])
    assert again.seed == rule.seed
    assert numbers(a, b, c, 200) == came


def test_all_is_lost_one_way_and_nothing_the_other(segment, nics):
    a, b, c, _ = nics
    segment.impair(Impairment(loss=1), [a.port], [b.port])
    assert numbers(a, b, c, 100) == []
    assert numbers(b, a, c, 100) == list(range(100))


def test_duplicates(segment, nics):
    a, b, c, _ = nics
    rule = segment.impair(Impairment(duplicate=0.25, seed=3), None, [b.port])
    came = numbers(a, b, c, 400)
    assert sorted(set(came)) == list(range(400))
    assert came == sorted(came)
    assert rule.counts["duplicated"] == rule.hits == len(came) - 400
    assert abs(rule.hits - 100) < 4 * math.sqrt(400 * 0.25 * 0.75)


def test_no_frame_comes_before_its_delay_or_out_of_order(segment, nics):
    a, b, _, _ = nics
    rule = segment.impair(Impairment(delay=0.02, jitter=0.015, seed=9), [a.port], [b.port])
    sent = []
    for number in range(300):
        sent.append(time.monotonic())
        a.send(b, b"%d" % number)
    for number in range(300):
        payload = b.receive()[14:]
        assert int(payload) == number
        assert time.monotonic() - sent[number] >= 0.005
    assert rule.hits == rule.counts["delayed"] == 300


def test_some_overtake(segment, nics):
    a, b, c, _ = nics
    rule = segment.impair(Impairment(delay=60, reorder=0.2, seed=4), [a.port], [b.port])
    first = numbers(a, b, c, 100)
    assert first == sorted(first)
    assert len(first) == rule.counts["reordered"]
    assert 8 <= len(first) <= 32
    rule.remove()
    late = [int(payload.split()[0]) for payload in b.waiting()]
    assert late == sorted(set(range(100)) - set(first))
    assert rule.hits == 100


def test_what_is_under_way_goes_on_when_the_rule_goes(segment, nics):
    a, b, c, _ = nics
    rule = segment.impair(Impairment(delay=60, jitter=60, seed=1), None, None)
    for number in range(50):
        a.send(b, b"%d" % number)
    free = segment.impair(Impairment(loss=0), None, None)
    rule.remove()
    free.remove()
    a.send(b, b"end")
    assert [int(payload) for payload in b.until(b"end")] == list(range(50))
    assert c.waiting() == []


def test_what_is_under_way_when_a_line_is_cut_does_not_get_there(segment, nics):
    a, b, c, _ = nics
    slow = segment.impair(Impairment(delay=60), [a.port], [b.port])
    assert numbers(a, b, c, 10) == []
    cut = segment.partition([[a.port], [b.port]])
    slow.remove()
    cut.remove()
    assert cut.hits == 10
    assert a.reaches(b) == []


def test_a_bandwidth_lets_through_what_fits_and_drops_what_waits_too_long(segment, nics):
    a, b, c, _ = nics
    rule = segment.impair(Impairment(bandwidth=1000), [a.port], [b.port])
    size = 1014
    came = numbers(a, b, c, 300, size - 14 - 4)
    assert came == []
    rule.remove()
    kept = [int(payload.split()[0]) for payload in b.waiting()]
    assert kept == list(range(len(kept)))
    # The first is on the line already; what has left it meanwhile gives others a place.
    assert WAITING_BYTES // size <= len(kept) <= WAITING_BYTES // size + 20
    assert rule.counts["overflowed"] == 300 - len(kept)
    assert rule.counts["slowed"] == len(kept)
    assert b.port.counters.dropped == {"rule": 300 - len(kept)}


def test_a_bandwidth_is_not_exceeded(segment, nics):
    a, b, _, _ = nics
    segment.impair(Impairment(bandwidth=1_000_000), [a.port], [b.port])
    begin = time.monotonic()
    for number in range(100):
        a.send(b, b"%4d" % number + bytes(982))
    for number in range(100):
        assert int(b.receive()[14:18]) == number
        assert time.monotonic() - begin >= (number + 1) * 0.001


def test_frames_longer_than_all_that_may_wait_pass_a_slow_line(segment, nics):
    a, b, _, _ = nics
    segment.impair(Impairment(bandwidth=10_000_000), [a.port], [b.port])
    frame = a.send(b, bytes(65536))
    assert b.receive() == frame


def test_several_rules_follow_one_another(segment, nics):
    a, b, c, _ = nics
    rules = [segment.impair(Impairment(duplicate=1), [a.port], None) for _ in range(3)]
    assert numbers(a, b, c, 1)[:8] == [0] * 8
    assert rules[0].counts["duplicated"] == 2
    c.waiting()
    rules[1].remove()
    a.send(b, b"7")
    a.send(c, b"end")
    assert c.until(b"end") == []
    assert b.waiting() == [b"7"] * 4


def test_rules_change_while_frames_flow(segment, nics):
    a, b, _, _ = nics
    for number in range(100):
        a.send(b, b"%d" % number)
        rule = segment.impair(Impairment(delay=0.001), None, None)
        rule.remove()
    a.send(b, b"end")
    assert [int(payload) for payload in b.until(b"end")] == list(range(100))


def test_a_machine_that_goes_takes_nothing_with_it(segment, nics):
    a, b, c, _ = nics
    slow = segment.impair(Impairment(delay=60, duplicate=0.5, seed=2), None, [b.port])
    assert numbers(a, b, c, 10) == []
    b.port.close()
    slow.remove()
    a.reaches(c)
    segment.impair(Impairment(delay=0.01, bandwidth=1000), None, None)
    a.send(c, b"under way")
    segment.close()
    segment.close()


def test_rules_that_cannot_be(segment, nics):
    a, b, c, _ = nics
    other = Switchboard()
    stranger = other.segment("net1", None).connect("x", "52:54:00:00:00:01", None)
    for wrong in (
        lambda: segment.partition([]),
        lambda: segment.partition([[a.port]]),
        lambda: segment.partition([[a.port], []]),
        lambda: segment.partition([[a.port], [b.port, a.port]]),
        lambda: segment.partition([[a.port], [stranger]]),
        lambda: segment.block([], [a.port]),
        lambda: segment.block([a.port], [stranger]),
        lambda: segment.impair(Impairment(loss=1), [], None),
        lambda: segment.impair(Impairment(loss=1), None, [stranger]),
    ):
        with pytest.raises(SpecError):
            wrong()
    c.port.close()
    with pytest.raises(SpecError):
        segment.block([a.port], [c.port])
    other.close()
    assert a.reaches(b) == []
