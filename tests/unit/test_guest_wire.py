"""The agent's protocol: what is sent means the same to a shell, and nothing received is misread."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.guest import wire

BOOT = "0a1b2c3d-0000-4000-8000-000000000001"
WORDS = st.lists(st.binary(max_size=40).filter(lambda word: b"\0" not in word), min_size=1, max_size=5)


@given(WORDS)
@settings(max_examples=60, deadline=None)
def test_a_shell_reads_the_words_that_were_sent(words):
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("no bash")
    script = b"set -- " + b" ".join(map(wire.quote, words)) + b'\nprintf "%s\\0" "$@"'
    assert b"\n" not in b"".join(map(wire.quote, words))
    done = subprocess.run([shell], input=script, capture_output=True, check=True, env={"LC_ALL": "C"})
    assert done.stdout.split(b"\0")[:-1] == words


@given(WORDS, st.integers(1, 10**9))
def test_a_request_is_one_line_that_shows_that_it_is_whole(words, sequence):
    line, body = wire.request(BOOT, "run", sequence, words)
    assert line.startswith(b"0a1b2c3d run %d " % sequence)
    assert line.endswith(b" .\n")
    assert line.count(b"\n") == 1
    assert body is None


def test_long_words_go_as_a_payload():
    line, body = wire.request(BOOT, "run", 7, [b"x" * 5000])
    assert line == b"0a1b2c3d long 7 %d .\n" % len(body)
    assert body == b"run 7 " + b"x" * 5000


@pytest.mark.parametrize("word", [b"a\0b", b"x" * (wire.LONGEST_WORD + 1)])
def test_what_no_kernel_would_take_is_refused(word):
    with pytest.raises(SpecError):
        wire.quote(word)


@pytest.mark.parametrize("name", ["", "1A", "A B", "A-B", "A=B", "É", "A\n"])
def test_names_that_no_shell_can_set_are_refused(name):
    with pytest.raises(SpecError):
        wire.environment({name: "value"})


def test_text_that_came_from_bytes_goes_back_as_these_bytes():
    data = bytes(range(256))
    assert wire.encode(data.decode("utf-8", "surrogateescape")) == data


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        (b"= 12 0 5 0", wire.Reply(12, 0, 5, 0)),
        (b"!hello " + BOOT.encode() + b" 2", wire.Hello(BOOT)),
        (b"!sync abc123 " + BOOT.encode() + b" 0", wire.Sync("abc123", BOOT)),
        (b"= 12 0 5", None),
        (b"= -1 0 5 0", None),
        (b"= 1 0 5 99999999999999", None),
        (b"x= 12 0 5 0", None),
        (b"= 12 0 5 0 ", None),
        (b"!hello short 2", None),
        (b"", None),
    ],
)
def test_lines_are_understood_or_not_at_all(line, meaning):
    assert wire.parse(line) == meaning


@given(st.binary(max_size=60))
def test_no_line_makes_the_parser_fail(line):
    wire.parse(line)
    wire.cut_by_hello(line, None)


def test_a_payload_that_ends_in_another_boots_greeting_was_cut_off():
    greeting = b"\n!hello " + BOOT.encode() + b" 0\n"
    assert wire.cut_by_hello(b"data" + greeting, "other") == BOOT
    assert wire.cut_by_hello(b"data" + greeting, BOOT) is None
    assert wire.cut_by_hello(greeting + b"data", "other") is None
