"""Both ways to the monitors of a session write one audit: one file, one sequence, whoever writes."""

import itertools
import json
import subprocess
import sys
from collections import Counter

import pytest

from pytest_qemuvm.errors import CommandBlocked, CommandError
from pytest_qemuvm.qmp import connect

pytestmark = pytest.mark.qemuvm(template="bare")

THREADS, CALLS = 3, 40

ELSEWHERE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pytest_qemuvm.errors import CommandBlocked
from pytest_qemuvm.qmp import connect

name, threads, calls = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def many(_):
    for _ in range(calls):
        client.execute("query-name")

with connect(name) as client, ThreadPoolExecutor(threads) as pool:
    client.execute("query-version")
    print("up", flush=True)
    sys.stdin.readline()
    list(pool.map(many, range(threads)))
    try:
        client.execute("inject-nmi")
    except CommandBlocked:
        print("blocked")
"""


@pytest.fixture
def lines(qemuvm):
    """Return the lines since the test began, after a look at the whole file."""
    begin = len(qemuvm.audited())

    def look():
        text = (qemuvm.root / "audit@.jsonl").read_text()
        found = [json.loads(line) for line in text.splitlines()]
        assert [line["seq"] for line in found] == list(range(1, len(found) + 1))
        return found[begin:]

    return look


def test_in_turns(vm, lines):
    """Each line is in the file when its call returns, so they stand in the order of the calls."""
    with connect(vm.name) as client:
        vm.qmp.execute("query-name")
        client.execute("query-name")
        before = len(lines())
        for _ in range(20):
            vm.qmp.execute("query-name")
            client.execute("query-name")
        found = lines()[before:]
    assert [line["transport"] for line in found] == ["owner", "second"] * 20


def test_the_same_is_noted_by_either_way(vm, lines):
    acts = [
        ("query-name", {}, None),
        ("device_del", {"id": "nobody"}, CommandError),
        ("inject-nmi", {}, CommandBlocked),
        ("pmemsave", {"val": 0, "size": 16, "filename": "page"}, None),
    ]
    with connect(vm.name) as client:
        client.execute("query-name")
        begin = len(lines())
        for qmp, (command, arguments, error) in itertools.product((vm.qmp, client), acts):
            if error is None:
                qmp.execute(command, arguments)
            else:
                with pytest.raises(error):
                    qmp.execute(command, arguments)
    found = lines()[begin:]

    def told(transport):
        keys = ("vm", "command", "arguments", "class", "user", "nodeid", "outcome")
        return [[line[key] for key in keys] for line in found if line["transport"] == transport]

    assert told("owner") == told("second")
    assert [line[-1] for line in told("owner")] == ["ok", "error", "blocked", "ok"]


def test_two_processes_and_their_threads_at_once(vm_factory, in_thread, lines):
    one, other = vm_factory("one"), vm_factory("other")
    argv = [sys.executable, "-c", ELSEWHERE, "one", str(THREADS), str(CALLS)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(argv, **pipes) as elsewhere, connect("other") as client:
        try:
            assert elsewhere.stdout.readline() == "up\n"
            client.execute("query-version")
            begin = len(lines())

            def many(qmp):
                for _ in range(CALLS):
                    qmp.execute("query-name")

            elsewhere.stdin.write("\n")
            elsewhere.stdin.flush()
            for call in [in_thread(many, qmp) for qmp in (one.qmp, other.qmp, client)]:
                call.result(60)
            assert elsewhere.communicate(timeout=60)[0] == "blocked\n"
        finally:
            elsewhere.kill()
    found = lines()[begin:]
    counted = Counter((line["vm"], line["transport"], line["command"]) for line in found)
    assert counted == {
        ("one", "owner", "query-name"): CALLS,
        ("other", "owner", "query-name"): CALLS,
        ("other", "second", "query-name"): CALLS,
        ("one", "second", "query-name"): THREADS * CALLS,
        ("one", "second", "inject-nmi"): 1,
    }
    assert {line["outcome"] for line in found if line["command"] == "query-name"} == {"ok"}
    # They really wrote in between one another.
    writers = [key for key, _ in itertools.groupby((line["vm"], line["transport"]) for line in found)]
    assert len(writers) > 4


def test_a_writer_that_is_killed_spoils_nothing(vm, lines):
    argv = [sys.executable, "-c", ELSEWHERE, vm.name, "1", "100000"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(argv, **pipes) as elsewhere:
        assert elsewhere.stdout.readline() == "up\n"
        elsewhere.stdin.write("\n")
        elsewhere.stdin.flush()
        while lines()[-1]["transport"] != "second" or lines()[-1]["command"] != "query-name":
            vm.qmp.execute("query-status")
        elsewhere.kill()
    vm.qmp.execute("query-name")
    assert lines()[-1]["transport"] == "owner"


def test_the_second_monitor_has_the_schema_from_the_cache(vm, lines):
    vm.qmp.execute("query-name")  # by now the cache has it
    with connect(vm.name) as client:
        client.execute("query-name")
        assert client.schema is not None
    assert "query-qmp-schema" not in [line["command"] for line in lines() if line["transport"] == "second"]
