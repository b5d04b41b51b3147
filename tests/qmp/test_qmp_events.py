"""Events: the log, waiting without a race, and what does not satisfy a wait."""

import pytest

from pytest_qemuvm.errors import QmpDisconnected, QmpError, QmpTimeout
from pytest_qemuvm.qmp import Client
from pytest_qemuvm.qmp.events import EventLog, fits


@pytest.fixture
def log():
    return EventLog(capacity=3)


def settle(client, peer, in_thread):
    """Return when the client has read everything said so far."""
    calling = in_thread(client.execute, "query-status")
    peer.answer({})
    calling.result(10)


def test_log_numbers_events_and_keeps_the_newest(log):
    assert (log.last, len(log), log.dropped, list(log)) == (0, 0, 0, [])
    for number in range(1, 6):
        assert log.append("STOP", {"n": number}, 0.5).seq == number
    assert (log.last, len(log), log.dropped) == (5, 3, 2)
    assert [event.seq for event in log] == [3, 4, 5]
    assert [event.seq for event in log.since(3, "STOP")] == [4, 5]
    assert [event.seq for event in log.since(0, ("RESUME", "STOP"), lambda data: data["n"] > 4)] == [5]
    assert log.since(0, "RESUME") == ()


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (None, True),
        ({}, True),
        ({"device": "d0"}, True),
        ({"device": "d1"}, False),
        ({"path": "/x"}, False),
        ({"info": {"a": 1}}, True),
        ({"info": {"a": 2}}, False),
        ({"info": {"c": 1}}, False),
        ({"info": 1}, False),
        ({"device": {"a": 1}}, False),
        ({"device": "d0", "list": [1, 2]}, True),
        ({"gone": None}, False),
        (lambda data: data["device"] == "d0", True),
        (lambda data: "", False),
    ],
)
def test_match(log, match, expected):
    event = log.append("X", {"device": "d0", "info": {"a": 1, "b": 2}, "list": [1, 2]}, 0)
    assert fits(event, "X", match) is expected


def test_event_carries_what_qemu_said(client, peer):
    peer.event("BLOCK_JOB_READY", device="j", len=4)
    event = client.wait_event("BLOCK_JOB_READY")
    assert (event.name, event.data, event.seq, event.timestamp) == (
        "BLOCK_JOB_READY",
        {"device": "j", "len": 4},
        1,
        7.5,
    )


def test_child_device_never_satisfies_a_wait_for_the_device(client, peer):
    peer.event("DEVICE_DELETED", path="/machine/peripheral/d0/virtio-backend")
    with pytest.raises(QmpTimeout) as caught:
        client.wait_event("DEVICE_DELETED", {"device": "d0"}, timeout=0.05)
    assert caught.value.seconds == 0.05
    assert "virtio-backend" in caught.value.details
    peer.event("DEVICE_DELETED", device="d0", path="/machine/peripheral/d0")
    assert client.wait_event("DEVICE_DELETED", {"device": "d0"}).seq == 2


def test_any_of_several_names(client, peer):
    peer.event("STOP")
    peer.event("SHUTDOWN")
    assert client.wait_event(("SHUTDOWN", "RESET")).name == "SHUTDOWN"


def test_since_asks_for_something_newer(client, peer, in_thread):
    peer.event("STOP")
    settle(client, peer, in_thread)
    since = client.events.last
    waiting = in_thread(client.wait_event, "STOP", since=since)
    peer.event("STOP")
    assert waiting.result(10).seq == 2
    assert client.wait_event("STOP", since=0).seq == 1
    assert client.wait_event("STOP", since=since).seq == 2
    with pytest.raises(QmpTimeout):
        client.wait_event("STOP", since=client.events.last, timeout=0)


def test_plain_waits_return_no_event_twice(client, peer, in_thread):
    peer.event("STOP")
    peer.event("STOP")
    settle(client, peer, in_thread)
    assert [client.wait_event("STOP").seq, client.wait_event("STOP").seq] == [1, 2]
    with pytest.raises(QmpTimeout):
        client.wait_event("STOP", timeout=0)


def test_expected_event_is_the_one_after_entering(client, peer, in_thread):
    peer.event("RESET", n=1)
    settle(client, peer, in_thread)
    with client.expect_event("RESET") as seen:
        with pytest.raises(QmpError):
            _ = seen.event
        peer.event("RESET", n=2)
    assert seen.event.data == {"n": 2}
    assert client.wait_event("RESET").data == {"n": 1}
    with pytest.raises(QmpTimeout):
        client.wait_event("RESET", timeout=0)


def test_expected_event_that_stays_away_times_out(client):
    with pytest.raises(QmpTimeout), client.expect_event("RESET", timeout=0.05):
        pass


def test_failure_of_the_act_is_not_hidden_by_the_wait(client):
    with pytest.raises(ZeroDivisionError), client.expect_event("RESET", timeout=600):
        _ = 1 / 0
    assert client._session.events._waits == []


def test_failure_of_a_predicate_is_the_callers(client, peer, in_thread):
    waiting = in_thread(client.wait_event, "STOP", lambda data: data["missing"])
    peer.event("STOP")
    with pytest.raises(KeyError):
        waiting.result(10)
    settle(client, peer, in_thread)

    def times_out(data):
        raise TimeoutError

    with pytest.raises(TimeoutError):
        client.wait_event("STOP", times_out)


def test_predicate_may_look_at_the_log(client, peer, in_thread):
    peer.event("STOP")
    settle(client, peer, in_thread)
    assert client.wait_event("STOP", lambda data: client.events.since(0, "STOP")).seq == 1


def test_event_is_in_the_log_before_the_reply_behind_it_is_returned(client, peer, in_thread):
    for number in range(1, 201):
        calling = in_thread(lambda: (client.execute("stop"), client.events.last)[1])
        command = peer.hear()
        peer.event("STOP")
        peer.say({"return": {}, "id": command["id"]})
        assert calling.result(10) == number


def test_storm_arrives_in_order(client, peer, in_thread):
    waiting = in_thread(client.wait_event, "LAST")
    for number in range(100):
        peer.say(
            b"".join(
                b'{"event": "E", "data": {"n": %d}}\n' % n for n in range(number * 100, number * 100 + 100)
            )
        )
    peer.event("LAST")
    assert waiting.result(10).seq == 10_001
    assert [event.data["n"] for event in client.events.since(0, "E")] == list(range(10_000))


def test_storm_does_not_grow_memory_beyond_the_bound(ends, loop):
    from pytest_qemuvm.qmp import Qmp

    ours, peer = ends
    peer.greet()
    with Qmp(loop, ours, capacity=100) as client:
        client.connect()
        for _ in range(100):
            peer.say(b'{"event": "E", "data": {"n": 0}}\n' * 100)
        peer.event("LAST")
        client.wait_event("LAST")
        assert (len(client.events), client.events.dropped) == (100, 9_901)
        assert client._session.link._wire.events.history == ()
        assert client._session.link._wire.events.empty()
        assert len(client.transcript()) <= 50


def test_two_waits_get_the_same_event(client, peer, in_thread):
    waits = [in_thread(client.wait_event, "STOP", since=0) for _ in range(2)]
    peer.event("STOP")
    assert [wait.result(10).seq for wait in waits] == [1, 1]


def test_event_that_came_is_found_after_the_end(ends, loop):
    ours, peer = ends
    peer.greet()
    with Client.from_socket(ours, timeout=10, loop=loop) as client:
        peer.event("SHUTDOWN")
        peer.close()
        with pytest.raises(QmpDisconnected):
            client.wait_event("NEVER")
        assert client.wait_event("SHUTDOWN").seq == 1
        with pytest.raises(QmpDisconnected):
            client.wait_event("SHUTDOWN")
