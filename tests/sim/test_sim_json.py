"""JSON as QEMU reads it: properties, and bytes from anywhere."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qmp_talk import LEAN, SIMULATOR, Talk

from pytest_qemuvm.sim import qmpjson
from pytest_qemuvm.sim.jsonlexer import Lexer
from pytest_qemuvm.sim.jsonparser import parse
from pytest_qemuvm.sim.keyval import key_values, pieces

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs", "Cn", "Co"]))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20)
objects = st.dictionaries(texts, values)


@given(objects)
def test_what_is_written_is_read_by_both_ways(value):
    text = qmpjson.dumps(value)
    assert json.loads(text) == value
    assert qmpjson.parse_one(text) == value
    (message,) = Lexer().feed(text.encode(), last=True)
    assert parse(message) == value


@given(st.lists(objects, min_size=1), st.lists(st.integers(1, 40)))
def test_messages_are_found_however_they_are_torn(messages, sizes):
    data = b"\r\n".join(json.dumps(message).encode() for message in messages)
    lexer, found = Lexer(), []
    for size in [*sizes, len(data)]:
        found += [parse(tokens) for tokens in lexer.feed(data[:size])]
        data = data[size:]
    assert found == messages
    assert lexer.idle


@given(st.lists(st.tuples(st.from_regex(r"[a-z]+", fullmatch=True), texts)))
def test_lists_of_keys_and_values_are_read_as_they_were_written(pairs):
    text = ",".join(f"{key}={value.replace(',', ',,')}" for key, value in pairs)
    assert key_values(text) == pairs


@given(texts)
def test_doubled_commas_are_one(text):
    assert pieces(text.replace(",", ",,")) == [text]


@pytest.fixture(scope="module")
def peer():
    with Talk(SIMULATOR, [*LEAN, "-machine", "q35"], "10.0") as talk:
        talk.negotiate()
        yield talk


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_end_it_and_a_command_behind_them_is_answered(peer, noise):
    # What is open is closed, and what is broken is left behind by a line's end.
    peer.send(noise + b"\n" + b'"\n' + b"}]" * 70 + b'\n{"execute":"query-status","id":"sentinel"}')
    while True:
        message = peer.receive()
        assert message is not None
        if message.get("id") == "sentinel":
            break
    assert message["return"]["running"] is True


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        [
            "query-block",
            "device_add",
            "blockdev-add",
            "netdev_add",
            "object-add",
            "qom-get",
            "chardev-add",
            "job-cancel",
        ]
    ),
    objects,
)
def test_no_arguments_end_it(peer, command, arguments):
    peer.send(json.dumps({"execute": command, "arguments": arguments, "id": "this"}).encode())
    message = peer.receive()
    assert message["id"] == "this"
    assert ("return" in message) != ("error" in message)
