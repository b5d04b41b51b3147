"""``qemuvm qmp``, against machines of a pytest in another process."""

import json
import os
import pty
import re
import select
import signal
import subprocess

import pytest

from pytest_qemuvm.cli.words import from_line, from_words
from pytest_qemuvm.errors import AmbiguousName, SpecError
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.paths import sessions_root
from pytest_qemuvm.qmp import connect
from pytest_qemuvm.qmp.audit import AUDIT_NAME, read


@pytest.fixture
def session(sessions):
    """A pytest with the machines ``mine`` and ``shared``; gives its tag."""
    sessions()
    with connect("mine") as client:
        return client.execute("query-name")["name"].partition("@")[2]


# One command


def test_the_bare_return_value_as_json(session, qemuvm):
    status, out, err = qemuvm("qmp", "mine", "query-status")
    assert (status, err) == (0, "")
    assert json.loads(out)["status"] == "running"
    assert qemuvm("qmp", "mine", "stop") == (0, "{}\n", "")
    assert json.loads(qemuvm("qmp", "mine", "query-status")[1])["status"] == "paused"


def test_arguments_as_words_and_as_json(session, qemuvm):
    status, out, _ = qemuvm("qmp", "mine", "qom-get", "path=/machine", "property=type")
    assert (status, json.loads(out)[:6]) == (0, "pc-q35")
    node = ("driver=qcow2", "node-name=n", "file.driver=null-co", "read-only=true")
    status, _, err = qemuvm("qmp", "mine", "blockdev-add", *node)
    assert status == 1
    assert "qcow2" in err
    assert (
        qemuvm("qmp", "mine", "blockdev-add", '{"driver": "null-co", "node-name": "n", "size": 512}')[0] == 0
    )
    nodes = json.loads(qemuvm("qmp", "mine", "query-named-block-nodes", "flat=true")[1])
    assert "n" in [node["node-name"] for node in nodes]


def test_qemus_refusal_is_status_1_and_goes_to_stderr(session, qemuvm):
    status, out, err = qemuvm("qmp", "mine", "device_del", "id=nobody")
    assert (status, out) == (1, "")
    assert "DeviceNotFound" in err


@pytest.mark.parametrize(
    "words", [("mine", "query-status", "nonsense"), ("mine", "a", "b=1", "b=2"), ("mine", "a", "{")]
)
def test_what_cannot_be_read_is_status_2_and_reaches_nobody(session, qemuvm, words):
    status, out, err = qemuvm("qmp", *words)
    assert (status, out) == (2, "")
    assert "hint: " in err


def test_a_misspelt_name_is_status_2(session, qemuvm):
    status, out, err = qemuvm("qmp", "nime", "query-status")
    assert (status, out) == (2, "")
    assert "hint: did you mean 'mine'?" in err


def test_a_machine_that_has_ended_is_status_2(session, qemuvm):
    assert qemuvm("qmp", "other", "query-status")[0] == 2


def test_no_machine_at_all(sessions, qemuvm):
    status, _, err = qemuvm("qmp", "mine", "query-status")
    assert status == 2
    assert "TMPDIR" in err


def test_somebody_who_is_connected_is_status_1(session, qemuvm):
    with connect("mine"):
        status, out, err = qemuvm("qmp", "mine", "query-status")
    assert (status, out) == (1, "")
    assert "somebody else" in err


def test_a_name_that_two_sessions_have(sessions, qemuvm):
    """Two suites that run at the same time, with machines of the same names."""
    pids = {sessions()[1], sessions()[1]}
    status, out, err = qemuvm("qmp", "mine", "query-status")
    assert (status, out) == (2, "")
    with pytest.raises(AmbiguousName) as caught:
        connect("mine")
    tags = caught.value.sessions
    assert len(tags) == 2
    for tag in tags:
        assert re.search(rf"{tag}: running, made for test_it.py::test_first \(pytest \d+, ", err)
        with connect("mine", session=tag) as client:
            pids.discard(pid_of(qemuvm, tag))
            assert client.execute("query-name")["name"] == f"mine@{tag}"
        status, out, _ = qemuvm("qmp", "--session", tag, "mine", "query-name")
        assert (status, json.loads(out)) == (0, {"name": f"mine@{tag}"})
    assert pids == set()


def pid_of(qemuvm, tag):
    (session,) = [each for each in json.loads(qemuvm("ps", "--json")[1])["sessions"] if each["tag"] == tag]
    return next(vm["pid"] for vm in session["vms"] if vm["name"] == "mine")


# Lines and a prompt


def test_a_command_a_line_up_to_the_first_that_fails(session, process):
    talk = process("qmp", "mine", stdin=subprocess.PIPE)
    lines = """
# a comment
stop
query-status
blockdev-add {"driver": "null-co", "node-name": "n", "size": 512}
device_del id='no body'
cont
"""
    out, err = talk.communicate(lines, timeout=60)
    assert talk.returncode == 1
    assert [json.loads(line) for line in out.splitlines()][::2] == [{}, {}]
    assert "line 6: device_del id='no body'" in err
    assert "DeviceNotFound" in err
    with connect("mine") as client:
        assert client.execute("query-status")["status"] == "paused"


@pytest.fixture
def terminal(process, monkeypatch):
    """Start ``qemuvm qmp`` on a terminal; ``expect`` reads what it shows up to a pattern."""
    monkeypatch.setenv("TERM", "dumb")
    opened = []

    class Screen:
        def __init__(self, *arguments):
            self.ours, theirs = pty.openpty()
            # A terminal for all three, as a user's shell gives it.
            self.process = process("qmp", *arguments, stdin=theirs, stdout=theirs, stderr=theirs)
            os.close(theirs)
            self.shown = ""
            opened.append(self)

        def type(self, text):
            os.write(self.ours, text.encode())

        def expect(self, pattern):
            deadline = Deadline.after(60)
            while (found := re.search(pattern, self.shown)) is None:
                ready = select.select([self.ours], [], [], deadline.remaining)[0]
                assert ready, f"{pattern!r} is not in {self.shown!r}"
                self.shown += os.read(self.ours, 65536).decode()
            self.shown = self.shown[found.end() :]

    yield Screen
    for screen in opened:
        screen.process.kill()
        screen.process.wait()
        os.close(screen.ours)


def test_the_prompt_completes_runs_and_shows_events(session, terminal):
    screen = terminal("mine")
    screen.expect("mine> ")
    screen.type("query-stat\t")
    screen.expect("query-stat")
    screen.type("us\n")
    screen.expect('"status": "running"')
    screen.expect("mine> ")
    screen.type("query-blockst\t\n")
    screen.expect("query-blockstats")
    screen.expect("mine> ")
    screen.type("qom-get pa\t/machine prop\ttype\n")
    screen.expect("path=/machine property=type")
    screen.expect('"pc-q35')
    screen.expect("mine> ")
    screen.type("stop\n")
    screen.expect("!! STOP {}")
    screen.expect("mine> ")
    screen.type("device_del id=nobody\n")
    screen.expect("DeviceNotFound")
    screen.expect("mine> ")
    screen.type("device_del 'nobody\n")
    screen.expect("hint: ")
    screen.expect("mine> ")
    screen.process.send_signal(signal.SIGINT)
    # One that comes just before the prompt waits for a key is acted on with the next key.
    screen.type("\n")
    screen.expect("mine> ")
    screen.type("\x04")  # Ctrl-D
    assert screen.process.wait(30) == 0
    # What TAB offers and what calls are compared with is one schema, and asked for once at most.
    lines = read(sessions_root() / session / AUDIT_NAME)
    assert sum(line["command"] == "query-qmp-schema" for line in lines) == 1


def test_the_prompt_ends_with_qemu(session, terminal):
    screen = terminal("mine")
    screen.expect("mine> ")
    screen.type("quit\n")
    screen.expect("{}")
    screen.type("query-status\n")
    screen.expect("qemuvm: QEMU")
    assert screen.process.wait(30) == 1


# What is typed


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("c", {}),
        ("c a=1 b=x c=true d=null e='1'", {"a": 1, "b": "x", "c": True, "d": None, "e": 1}),
        ("c a='\"1\"' b='x y' c= d=a=b", {"a": "1", "b": "x y", "c": "", "d": "a=b"}),
        ("c a.b.c=1 a.b.d=2", {"a": {"b": {"c": 1, "d": 2}}}),
        ("c a=[1,2] b.c={}", {"a": [1, 2], "b": {"c": {}}}),
        ("c a=NaN b=-Infinity", {"a": "NaN", "b": "-Infinity"}),
        ('  c   {"a": {"b": "x  \'y"}}', {"a": {"b": "x  'y"}}),
    ],
)
def test_what_words_mean(line, arguments):
    assert from_line(line) == ("c", arguments)


@pytest.mark.parametrize(
    "words", [["a"], ["=1"], ["a..b=1"], ["a=1", "a=1"], ["a=1", "a.b=1"], ["{]"], ["{}", "a=1"]]
)
def test_words_that_mean_nothing(words):
    with pytest.raises(SpecError):
        from_words(words)
