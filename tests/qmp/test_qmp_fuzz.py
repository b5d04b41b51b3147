"""Whatever bytes arrive: an answer or a typed error, and no hang."""

import json
import socket
import threading
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pytest_qemuvm.errors import ConnectError, QmpDisconnected, QmpError, QmpTimeout
from pytest_qemuvm.qmp import Client

GREETING = b'{"QMP": {"version": {"qemu": {}}, "capabilities": []}}\r\n'
AGREED = b'{"return": {}}\r\n'

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
members = st.fixed_dictionaries(
    {},
    optional={
        "QMP": json_values,
        "event": json_values | st.just("STOP"),
        "data": json_values | st.just({"device": "d0"}),
        "timestamp": json_values | st.just({"seconds": 1, "microseconds": 2}),
        "return": json_values,
        "error": json_values | st.just({"class": "GenericError", "desc": "no"}),
        "id": json_values | st.just("1"),
    },
)


def line(message):
    return json.dumps(message).encode() + b"\n"


pieces = st.one_of(
    st.binary(max_size=20),
    members.map(line),
    members.map(lambda message: line(message)[:-4]),
    st.sampled_from([GREETING, AGREED, b'{"return": 1, "id": "1"}\n', b'{"event": "STOP"}\n', b"\n", b" "]),
)
streams = st.lists(pieces, max_size=6).map(b"".join)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def converse(loop, before, after):
    """Say something at once and something more on the first command, hang up, and return what came of it."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)

    def play():
        # The client hangs up on nonsense, perhaps before all of it has been said.
        with suppress(OSError):
            theirs.sendall(before)
            while after is not None and b"query-status" not in theirs.recv(4096):
                pass
            theirs.sendall(after or b"")
            theirs.shutdown(socket.SHUT_WR)

    playing = threading.Thread(target=play)
    playing.start()
    try:
        with Client.from_socket(ours, timeout=10, loop=loop) as client:
            try:
                return client.execute("query-status")
            finally:
                with pytest.raises(QmpDisconnected):
                    client.wait_event("NEVER")
    finally:
        playing.join()
        theirs.close()
        assert ours.fileno() == -1


@quick
@given(before=streams)
@example(before=b"[" * 50_000 + b"\n")
@example(before=GREETING + AGREED + b'{"event": {}}\n')
def test_stream_that_just_comes(loop, before):
    try:
        converse(loop, before, None)
    except (ConnectError, QmpDisconnected):
        return
    pytest.fail("nothing answered the command, yet there was an answer")


@quick
@given(after=streams)
@example(after=b'{"error": {"class": "GenericError", "desc": "JSON parse error"}}\n')
@example(after=b'{"return": {}, "id": {"a": 1}}\n')
@example(after=b'{"event": "E", "timestamp": {"seconds": 1e999}}\n')
@example(after=b'{"event": "E", "timestamp": {"seconds": ' + b"9" * 400 + b"}}\n")
@example(after=b'{"return": ' + b"9" * 5000 + b', "id": "1"}\n')
def test_stream_that_answers_a_command(loop, after):
    try:
        converse(loop, GREETING + AGREED, after)
    except QmpTimeout:
        pytest.fail("the end of the stream was not noticed")
    except QmpError:
        pass
