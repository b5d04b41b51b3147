"""The transcript: what a failure report shows of a conversation."""

import pytest

from pytest_qemuvm.errors import QmpTimeout
from pytest_qemuvm.qmp.events import EventLog
from pytest_qemuvm.qmp.transcript import Transcript


def without_times(lines):
    return [
        line.rsplit(" ", 2)[0] if line.startswith("<- ") and line.endswith(" ms") else line for line in lines
    ]


def test_exchange_and_event_read_like_a_conversation(monitor):
    monitor.execute("stop")
    monitor.execute("cont")
    monitor.execute("query-name", {})
    assert without_times(monitor.transcript()) == [
        "-> stop {}",
        "<- {}",
        "-> cont {}",
        "!! event RESUME",
        "<- {}",
        "-> query-name {}",
        "<- {}",
    ]


def test_refusal_is_shown_as_qemu_put_it(monitor):
    with pytest.raises(Exception, match="not found"):
        monitor.execute("device_del", {"id": "x"})
    asked, refused = monitor.transcript()
    assert asked == '-> device_del {"id": "x"}'
    assert "DeviceNotFound" in refused


def test_long_values_are_shortened(monitor):
    monitor.execute("query-qmp-schema")
    with pytest.raises(Exception, match="not found"):
        monitor.execute("device_del", {"id": "x" * 5000})
    assert all(len(line) < 300 for line in monitor.transcript())


def test_timeout_late_reply_and_overlap_are_told_apart(client, peer, in_thread):
    with pytest.raises(QmpTimeout):
        client.execute("slow", timeout=0.01)
    slow = peer.hear()
    calling = in_thread(client.execute, "fast")
    fast = peer.hear()
    peer.say({"return": 1, "id": slow["id"]}, {"return": 2, "id": fast["id"]}, {"return": 3, "id": "stray"})
    calling.result(10)
    client.close()
    lines = without_times(client.transcript())
    assert lines[:2] == ["-> slow {}", "<- no reply: nobody waits any more"]
    assert lines[2:5] == ["-> fast {}", "<- (slow) 1", "<- 2"]
    assert lines[5].startswith("<- dropped, it answers nothing:")


def test_storm_of_events_does_not_push_the_commands_out():
    transcript, log = Transcript(exchanges=2, events=3), EventLog()
    for number in range(3):
        transcript.sent(f"q-{number}", "query-status", "{}")
        transcript.answered(
            f"q-{number}", "query-status", b'{"return": %d, "id": "q-%d"}\r\n' % (number, number), 0
        )
    for number in range(10):
        transcript.event(log.append("E", {"n": number}, 0))
    assert transcript.lines() == [
        "-> query-status {}",
        "<- 1 0.0 ms",
        "-> query-status {}",
        "<- 2 0.0 ms",
        '!! event E {"n": 7}',
        '!! event E {"n": 8}',
        '!! event E {"n": 9}',
    ]
