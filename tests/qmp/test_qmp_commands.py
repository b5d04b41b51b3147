"""Commands against a scripted peer: replies of every shape, and every way in which they fail to come."""

import os
import signal
import threading

import pytest

from pytest_qemuvm.errors import CommandError, QmpDisconnected, QmpError, QmpTimeout, SpecError
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.qmp import Qmp


def test_arguments_go_out_and_the_return_value_comes_back(client, peer, in_thread):
    calling = in_thread(client.execute, "blockdev-add", {"node-name": "d\u00fc", "driver": "null-co"})
    heard = peer.answer({"ok": True})
    assert calling.result(10) == {"ok": True}
    assert (heard["execute"], heard["arguments"]) == (
        "blockdev-add",
        {"node-name": "d\u00fc", "driver": "null-co"},
    )


def test_refusal_is_a_command_error_in_qemus_words(client, peer, in_thread):
    calling = in_thread(client.execute, "device_add", {"driver": "x"})
    peer.say({"error": {"class": "GenericError", "desc": "no x"}, "id": peer.hear()["id"]})
    with pytest.raises(CommandError) as caught:
        calling.result(10)
    assert (caught.value.class_, caught.value.desc) == ("GenericError", "no x")


@pytest.mark.parametrize("body", [{}, {"error": "no"}, {"error": {"class": 1}}])
def test_reply_that_is_none_is_typed_and_the_next_one_counts(client, peer, in_thread, body):
    calling = in_thread(client.execute, "first")
    peer.say({**body, "id": peer.hear()["id"]})
    with pytest.raises(QmpError):
        calling.result(10)
    calling = in_thread(client.execute, "second")
    peer.answer(2)
    assert calling.result(10) == 2


def test_long_reply(client, peer, in_thread):
    calling = in_thread(client.execute, "query-qmp-schema")
    peer.answer("x" * 300 * 1024)
    assert len(calling.result(10)) == 300 * 1024


def test_split_reply(client, peer, in_thread):
    calling = in_thread(client.execute, "query-status")
    call_id = peer.hear()["id"]
    for byte in b'{"id": "%s", "return": {"status": "running"}}\r\n' % call_id.encode():
        peer.say(bytes([byte]))
    assert calling.result(10) == {"status": "running"}


def test_joined_replies_and_events_out_of_order(client, peer, in_thread):
    calls = {name: in_thread(client.execute, name) for name in ("a", "b", "c")}
    ids = {heard["execute"]: heard["id"] for heard in (peer.hear(), peer.hear(), peer.hear())}
    lines = [b'{"return": "%s", "id": "%s"}\n' % (name.encode(), ids[name].encode()) for name in "cab"]
    peer.say(lines[0] + b'{"event": "STOP"}\n' + lines[1] + lines[2])
    assert {name: call.result(10) for name, call in calls.items()} == {"a": "a", "b": "b", "c": "c"}
    assert [event.name for event in client.events] == ["STOP"]


@pytest.mark.parametrize(
    "stray",
    [
        {"return": {}, "id": "nobody"},
        {"return": {}, "id": 7},
        {"return": {}, "id": ["a"]},
        {"return": {}},
        {"error": {"class": "GenericError", "desc": "?"}, "id": "nobody"},
        {},
    ],
)
def test_reply_to_nobody_is_dropped(client, peer, in_thread, stray):
    calling = in_thread(client.execute, "query-status")
    command = peer.hear()
    peer.say(stray, {"return": 1, "id": command["id"]})
    assert calling.result(10) == 1


def test_reply_given_twice_counts_once(client, peer, in_thread):
    calling = in_thread(client.execute, "a")
    reply = {"return": 1, "id": peer.hear()["id"]}
    peer.say(reply, reply, reply, reply)
    assert calling.result(10) == 1
    calling = in_thread(client.execute, "b")
    peer.answer(2)
    assert calling.result(10) == 2


def test_complaint_without_id_answers_the_oldest_command(client, peer, in_thread):
    first = in_thread(client.execute, "first")
    peer.hear()
    second = in_thread(client.execute, "second")
    heard = peer.hear()
    peer.say(
        {"error": {"class": "GenericError", "desc": "JSON parse error"}}, {"return": 2, "id": heard["id"]}
    )
    with pytest.raises(CommandError):
        first.result(10)
    assert second.result(10) == 2


def test_complaint_about_nothing_ends_the_connection(client, peer):
    peer.say({"error": {"class": "GenericError", "desc": "JSON parse error"}})
    with pytest.raises(QmpDisconnected):
        client.wait_event("STOP")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("bad", {"a": object()}),
        ("bad", {"a": float("nan")}),
        ("bad", {"a": "\ud800"}),
        ("\ud800", None),
        (b"bad", None),
        (None, None),
    ],
)
def test_what_is_no_json_is_refused_before_a_byte_is_sent(client, peer, in_thread, command, arguments):
    with pytest.raises(SpecError):
        client.execute(command, arguments)
    calling = in_thread(client.execute, "good")
    assert peer.answer({})["execute"] == "good"
    calling.result(10)


def test_late_reply_is_dropped_and_the_connection_stays_usable(client, peer, in_thread):
    with pytest.raises(QmpTimeout) as caught:
        client.execute("slow", timeout=0.05)
    assert caught.value.seconds == 0.05
    assert "slow" in caught.value.waited_for
    late = peer.hear()
    calling = in_thread(client.execute, "fast")
    fast = peer.hear()
    peer.say({"return": "late", "id": late["id"]}, {"return": "fast", "id": fast["id"]})
    assert calling.result(10) == "fast"


def test_a_running_deadline_is_honoured(client):
    deadline = Deadline.after(0.05)
    with pytest.raises(QmpTimeout) as caught:
        client.execute("slow", timeout=deadline)
    assert caught.value.seconds == 0.05
    assert deadline.expired


@pytest.mark.parametrize(
    "last", [b"", b"garbage\n", b'{"return": {', b'{"event": 7}\n', b"[" * 100_000 + b"\n"]
)
def test_end_in_mid_command_wakes_everybody(client, peer, in_thread, last):
    calls = [in_thread(client.execute, name) for name in ("a", "b")]
    wait = in_thread(client.wait_event, "STOP")
    peer.hear()
    peer.hear()
    peer.say(last)
    peer.close()
    for waiting in (*calls, wait):
        with pytest.raises(QmpDisconnected):
            waiting.result(10)
    with pytest.raises(QmpDisconnected):
        client.execute("c")
    with pytest.raises(QmpDisconnected):
        client.wait_event("STOP")


def test_line_without_end_is_given_up(client, peer, in_thread):
    calling = in_thread(client.execute, "a")
    peer.hear()
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        peer.sock.sendall(b" " * (64 << 20))
    with pytest.raises(QmpDisconnected):
        calling.result(10)


def test_peer_that_reads_nothing_times_out_and_close_does_not_hang(client, in_thread):
    with pytest.raises(QmpTimeout):
        client.execute("a", {"long": "x" * (4 << 20)}, timeout=0.05)
    in_thread(client.close).result(10)


def test_commands_longer_than_the_socket_arrive_whole_and_in_order(client, peer, in_thread):
    calls = [in_thread(client.execute, "long", {"text": str(n) * (2 << 20)}) for n in range(3)]
    heard = [peer.answer(1)["arguments"]["text"] for _ in calls]
    assert sorted((text[0], len(text)) for text in heard) == [(str(n), 2 << 20) for n in range(3)]
    assert [calling.result(10) for calling in calls] == [1, 1, 1]
    calling = in_thread(client.execute, "short")
    peer.answer(2)
    assert calling.result(10) == 2


def test_close_wakes_everybody(client, peer, in_thread):
    calling = in_thread(client.execute, "a")
    wait = in_thread(client.wait_event, "STOP")
    peer.hear()
    client.close()
    for waiting in (calling, wait):
        with pytest.raises(QmpDisconnected):
            waiting.result(10)
    assert peer.sock.recv(1) == b""


def test_interrupted_wait_leaves_the_connection_usable(client, peer, in_thread):
    def interrupt():
        command = peer.hear()
        os.kill(os.getpid(), signal.SIGINT)
        return command

    interrupting = in_thread(interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.execute("a")
    late = interrupting.result(10)
    calling = in_thread(client.execute, "b")
    heard = peer.hear()
    peer.say({"return": "late", "id": late["id"]}, {"return": "b", "id": heard["id"]})
    assert calling.result(10) == "b"


def test_waiting_on_the_loops_own_thread_is_refused(client, loop):
    outcome = {}

    def call():
        for name, act in (("execute", client.execute), ("wait_event", client.wait_event)):
            try:
                act("x")
            except RuntimeError as error:
                outcome[name] = error
        done.set()

    done = threading.Event()
    loop.post(call)
    assert done.wait(10)
    assert set(outcome) == {"execute", "wait_event"}


def test_death_counts_even_where_somebody_else_holds_the_socket(ends, loop, bystander, in_thread):
    ours, peer = ends
    peer.greet()
    with Qmp(loop, ours, death=bystander, timeout=10) as client:
        client.connect()
        calling = in_thread(client.execute, "a")
        wait = in_thread(client.wait_event, "STOP")
        peer.hear()
        peer.event("SHUTDOWN", reason="host-signal")
        bystander.process.kill()
        for waiting in (calling, wait):
            with pytest.raises(QmpDisconnected) as caught:
                waiting.result(10)
            assert caught.value.status == -9
            assert "the end" in caught.value.log
        assert client.events.snapshot()[-1].data == {"reason": "host-signal"}


def test_last_words_are_heard_before_the_death(ends, loop, bystander, in_thread, stalled_loop):
    ours, peer = ends
    peer.greet()
    with Qmp(loop, ours, death=bystander, timeout=10) as client:
        client.connect()
        with stalled_loop():
            # The command is written to a peer that is gone, while that peer's words wait to be read.
            peer.event("GUEST_PANICKED", action="pause")
            peer.event("SHUTDOWN", reason="guest-panic")
            peer.close()
            bystander.process.kill()
            calling = in_thread(client.execute, "a")
            while not client._session.link._calls:
                pass
        with pytest.raises(QmpDisconnected):
            calling.result(10)
        assert [event.name for event in client.events] == ["GUEST_PANICKED", "SHUTDOWN"]


def test_monitor_that_hangs_up_while_its_qemu_lives_is_no_death(ends, loop, bystander):
    ours, peer = ends
    peer.greet()
    with Qmp(loop, ours, death=bystander, timeout=10) as client:
        client.connect()
        peer.close()
        with pytest.raises(QmpDisconnected) as caught:
            client.wait_event("STOP")
        assert caught.value.status is None


def test_closing_the_loop_first_wakes_everybody_and_leaves_nothing(ends, in_thread):
    from pytest_qemuvm.host.loop import LoopThread

    ours, peer = ends
    peer.greet()
    own = LoopThread()
    client = Qmp(own, ours, timeout=10)
    client.connect()
    calling = in_thread(client.execute, "a")
    peer.hear()
    own.close()
    with pytest.raises(QmpDisconnected):
        calling.result(10)
    with pytest.raises(QmpDisconnected):
        client.execute("b")
    client.close()
    assert ours.fileno() == -1
