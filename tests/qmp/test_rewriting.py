"""Commands that write to an image which QEMU has open for reading only: the user's own stays as it is."""

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from pytest_qemuvm import DiskSpec
from pytest_qemuvm.errors import CommandBlocked, CommandError, QmpDisconnected, QmpTimeout
from pytest_qemuvm.qmp import connect
from pytest_qemuvm.qmp.policy import Places, judge_rewriting
from pytest_qemuvm.qmp.rewriting import Nodes, reopens, rewritten

pytestmark = pytest.mark.qemuvm(template="bare")

MIB = 1 << 20


def create(path, backing, form):
    below = ("-b", str(backing), "-F", form)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *below, str(path)], check=True, timeout=60)


@pytest.fixture
def users(tmp_path):
    """Two images of the user's, one upon the other."""
    lower, upper = tmp_path / "lower.raw", tmp_path / "upper.qcow2"
    lower.write_bytes(b"u" * MIB)
    create(upper, lower, "raw")
    return upper, lower


@pytest.fixture
def untouched(users):
    """Fail the test if any of the user's images is not what it was."""
    before = [path.read_bytes() for path in users]
    yield
    assert [path.read_bytes() for path in users] == before


@pytest.fixture
def disk(vm, users, untouched):
    """A disk over the user's images, plugged."""
    return vm.hotplug(DiskSpec(path=users[0], format="qcow2"))


@pytest.fixture(params=["owner", "second"])
def qmp(request, vm, disk):
    if request.param == "owner":
        yield vm.qmp
    else:
        with connect(vm.name) as client:
            yield client


@pytest.fixture
def nodes(vm, disk):
    """The names of the nodes by their images."""
    named = vm.qmp.execute("query-named-block-nodes", {"flat": True})
    return {Path(node["file"]).name: node["node-name"] for node in named if node["drv"] != "file"}


COMMANDS = [
    ("block-commit", {"device": "DISK"}, "device"),
    ("block-commit", {"device": "DISK", "base-node": "LOWER"}, "base-node"),
    ("block-commit", {"device": "DISK", "base-node": "UPPER"}, "base-node"),
    ("block-commit", {"device": "DISK", "base-node": "LOWER", "top-node": "UPPER"}, "base-node"),
    ("block-commit", {"device": "DISK", "top-node": "UPPER"}, "device"),
    ("block-commit", {"device": "DISK", "base": "PATH/upper.qcow2"}, "base"),
    ("block-commit", {"device": "DISK", "base": "PATH/./lower.raw"}, "base"),
    ("block-commit", {"device": "DISK", "base": "what's this"}, "base"),
    ("block-commit", {"device": "DISK", "top": "PATH/upper.qcow2"}, "device"),
    ("block-stream", {"device": "UPPER"}, "device"),
    ("block-stream", {"device": "UPPER", "base-node": "LOWER"}, "device"),
    (
        "change-backing-file",
        {"device": "DISK", "image-node-name": "UPPER", "backing-file": "x"},
        "image-node-name",
    ),
    ("x-blockdev-amend", {"job-id": "j", "node-name": "UPPER", "options": {"driver": "qcow2"}}, "node-name"),
]


@pytest.mark.filterwarnings("ignore:block-commit.*deprecated")
@pytest.mark.parametrize(("command", "arguments", "path"), COMMANDS, ids=lambda each: str(each)[:60])
def test_what_writes_to_the_users_image_is_not_sent(vm, qmp, disk, nodes, tmp_path, command, arguments, path):
    words = {"DISK": f"{disk.id}-fmt", "UPPER": nodes["upper.qcow2"], "LOWER": nodes["lower.raw"]}
    arguments = {
        key: words.get(value, value.replace("PATH", str(tmp_path))) if isinstance(value, str) else value
        for key, value in arguments.items()
    }
    with pytest.raises(CommandBlocked) as caught:
        qmp.execute(command, arguments)
    assert f"by arguments.{path} it" in caught.value.brief
    with pytest.raises(CommandBlocked):
        asyncio.run(qmp.aio.execute(command, arguments))
    assert not [line for line in vm.transcript() if line.startswith("->") and command in line]
    assert qmp.execute("query-jobs") == []


def test_what_is_reopened_for_writing(vm, qmp, tmp_path):
    (tmp_path / "image").write_bytes(bytes(MIB))
    node = {"driver": "file", "node-name": "f", "filename": str(tmp_path / "image")}
    vm.qmp.execute("blockdev-add", {**node, "read-only": True}, allow_dangerous=True)
    vm.qmp.execute("blockdev-add", {"driver": "raw", "node-name": "r", "file": "f", "read-only": True})
    over = {"driver": "raw", "node-name": "r", "file": "f"}
    for options in ([over], [{**over, "read-only": False}], [{**over, "read-only": True}, over]):
        with pytest.raises(CommandBlocked):
            qmp.execute("blockdev-reopen", {"options": options})
    qmp.execute("blockdev-reopen", {"options": [{**over, "read-only": True}]})
    vm.qmp.execute("blockdev-del", {"node-name": "r"})
    vm.qmp.execute("blockdev-del", {"node-name": "f"})


@pytest.mark.qemuvm_expect("leaked_block_node")
def test_its_own_overlays_may_be_committed_and_streamed(vm, qmp, disk, nodes):
    """One more overlay in the VM's directory; only what is below the disk's own image is the user's."""
    fmt = f"{disk.id}-fmt"
    create(vm.run_dir / "top.qcow2", vm.run_dir / f"{disk.id}.overlay.qcow2", "qcow2")
    file = {"driver": "file", "filename": "top.qcow2"}
    qmp.execute("blockdev-add", {"driver": "qcow2", "node-name": "top", "file": file, "backing": None})
    qmp.execute("blockdev-snapshot", {"node": fmt, "overlay": "top"})
    qmp.execute("block-stream", {"job-id": "j", "device": "top", "base-node": fmt})
    qmp.job("j")
    for arguments in ({"base-node": fmt}, {"base-node": fmt, "top-node": "top"}):
        qmp.execute("block-commit", {"job-id": "j", "device": "top", **arguments})
        qmp.job("j", when_ready="cancel")
    with pytest.raises(CommandBlocked):
        qmp.execute("block-commit", {"job-id": "j", "device": "top"})
    with pytest.raises(CommandBlocked):
        qmp.execute("block-commit", {"job-id": "j", "device": "top", "base-node": nodes["upper.qcow2"]})


def test_a_node_that_is_not_there_is_qemus_to_refuse(qmp):
    for command, arguments in (
        ("block-commit", {"device": "nobody"}),
        ("block-stream", {"device": "nobody"}),
        ("blockdev-reopen", {"options": [{"driver": "null-co", "node-name": "nobody"}]}),
    ):
        with pytest.raises(CommandError):
            qmp.execute(command, arguments)


class TestPermitted:
    """What is permitted is sent, and then the user's image may change."""

    @pytest.fixture
    def untouched(self):
        return None

    @pytest.fixture
    def commits(self, vm, users):
        disk = vm.hotplug(DiskSpec(path=users[0], format="qcow2"))
        yield {"job-id": "j", "device": f"{disk.id}-fmt"}
        vm.qmp.job("j", when_ready="cancel")

    def test_for_a_call(self, vm, commits):
        with pytest.raises(CommandBlocked):
            vm.qmp.execute("block-commit", commits)
        vm.qmp.execute("block-commit", commits, allow_dangerous=True)

    @pytest.mark.qemuvm_allow("block-commit")
    def test_for_a_test(self, vm, commits):
        vm.qmp.execute("block-commit", commits)


WRITERS = [
    ("blockdev-mirror", {"device": "null", "target": "UPPER", "sync": "full", "job-id": "j"}),
    ("blockdev-backup", {"device": "null", "target": "UPPER", "sync": "full", "job-id": "j"}),
    ("blockdev-mirror", {"device": "null", "target": "LOWER", "sync": "full", "job-id": "j"}),
    ("blockdev-backup", {"device": "null", "target": "LOWER", "sync": "full", "job-id": "j"}),
    ("block_resize", {"node-name": "UPPER", "size": 2 * MIB}),
    ("block-export-add", {"type": "nbd", "id": "e", "node-name": "UPPER", "writable": True}),
]


@pytest.mark.parametrize(("command", "arguments"), WRITERS, ids=lambda each: str(each)[:60])
def test_what_else_takes_a_node_is_refused_by_qemu(vm, disk, nodes, command, arguments):
    """What is open for reading only is written to by no other command: QEMU does not reopen it for them."""
    vm.qmp.execute("blockdev-add", {"driver": "null-co", "node-name": "null", "size": MIB})
    if command == "block-export-add":
        address = {"type": "unix", "data": {"path": str(vm.run_dir / "nbd")}}
        vm.qmp.execute("nbd-server-start", {"addr": address})
    words = {"UPPER": nodes["upper.qcow2"], "LOWER": nodes["lower.raw"]}
    with pytest.raises(CommandError):
        vm.qmp.execute(command, {key: words.get(value, value) for key, value in arguments.items()})
    if command == "block-export-add":
        vm.qmp.execute("nbd-server-stop")
    vm.qmp.execute("blockdev-del", {"node-name": "null"})


# The question that comes first


def test_a_qemu_that_does_not_answer_is_sent_nothing(vm, disk, qemuvm):
    begin = len(qemuvm.audited(vm.name))
    os.kill(vm.pid, signal.SIGSTOP)
    try:
        with pytest.raises(QmpTimeout) as caught:
            vm.qmp.execute("block-commit", {"device": f"{disk.id}-fmt"}, timeout=0.05)
    finally:
        os.kill(vm.pid, signal.SIGCONT)
    assert caught.value.seconds == 0.05
    assert vm.qmp.execute("query-jobs") == []
    told = [(line["command"], line["outcome"]) for line in qemuvm.audited(vm.name)[begin:]]
    assert ("block-commit", "timeout") in told


@pytest.mark.qemuvm_expect("vm_state_mismatch")
def test_a_qemu_that_dies_meanwhile(vm, disk, in_thread):
    os.kill(vm.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, vm.pid, os.WSTOPPED | os.WNOWAIT)
    waiting = in_thread(vm.qmp.execute, "block-commit", {"device": f"{disk.id}-fmt"}, timeout=60)
    os.kill(vm.pid, signal.SIGKILL)
    with pytest.raises(QmpDisconnected):
        waiting.result(30)


@pytest.mark.parametrize("said", [{"return": {}}, {"error": {"class": "CommandNotFound", "desc": "no"}}])
def test_where_it_cannot_be_asked_nothing_is_sent(client, peer, in_thread, said):
    calling = in_thread(client.execute, "block-commit", {"device": "d"})
    for _ in range(2):
        peer.say({**said, "id": peer.hear()["id"]})
    with pytest.raises(CommandBlocked):
        calling.result(10)
    with pytest.raises(CommandBlocked):
        client.post("block-commit", {"device": "d"})
    calling = in_thread(client.execute, "query-name")
    assert peer.answer({})["execute"] == "query-name"
    calling.result(10)


# The rules, of a graph


def graph(*edges, fronts=()):
    """A graph as QEMU describes it: ``parent:role:child``; a leaf's image is its name."""
    parts = [edge.split(":") for edge in edges]
    names = sorted({name for parent, _, child in parts for name in (parent, child)})
    numbers = {name: number for number, name in enumerate(names, 1)}
    kind = {name: "block-backend" if name in fronts else "block-driver" for name in names}
    return {
        "nodes": [{"id": numbers[name], "type": kind[name], "name": name} for name in names],
        "edges": [{"parent": numbers[p], "name": role, "child": numbers[c]} for p, role, c in parts],
    }, [
        {"node-name": name, "file": f"/images/{name}", "ro": not name.startswith("rw")}
        for name in names
        if name not in fronts
    ]


CHAIN = ("drive:root:throttle", "throttle:file:rw-a", "rw-a:file:rw-af", "rw-a:backing:b", "b:file:bf")
CHAIN = (*CHAIN, "b:backing:filter", "filter:file:c", "c:file:cf")


@pytest.mark.parametrize(
    ("command", "arguments", "images"),
    [
        ("block-commit", {"device": "drive"}, ["cf"]),
        ("block-commit", {"device": "throttle"}, ["cf"]),
        ("block-commit", {"device": "rw-a", "base-node": "b"}, ["bf"]),
        ("block-commit", {"device": "rw-a", "top-node": "c"}, ["cf", "bf"]),
        ("block-commit", {"device": "rw-a", "top-node": "filter"}, ["cf", "bf"]),
        ("block-commit", {"device": "rw-a", "top-node": "b"}, ["cf"]),
        ("block-commit", {"device": "rw-a", "base": "bf"}, ["bf"]),
        ("block-commit", {"device": "rw-a", "base": "other"}, ["bf", "cf"]),
        ("block-commit", {"device": "rw-a", "base": 5}, ["bf", "cf"]),
        ("block-commit", {"device": 5}, []),
        ("block-stream", {"device": "rw-a"}, []),
        ("block-stream", {"device": "filter"}, ["cf"]),
        ("blockdev-reopen", {"options": [{"node-name": "b"}, {"node-name": "rw-a"}]}, ["bf"]),
        ("blockdev-reopen", {"options": [{"node-name": "b", "read-only": True}, 5]}, []),
        ("blockdev-reopen", {"options": "b"}, []),
    ],
)
def test_which_images_a_command_has_reopened(command, arguments, images):
    nodes = Nodes(*graph(*CHAIN, fronts=("drive",)))
    assert [found.image for found in rewritten(command, arguments, nodes)] == [f"/images/{i}" for i in images]


def test_a_graph_that_turns_in_a_circle_ends():
    nodes = Nodes(*graph("a:backing:b", "b:backing:a", "a:file:af", "b:file:bf"))
    assert [found.image for found in rewritten("block-commit", {"device": "a"}, nodes)] == ["/images/bf"]


@pytest.mark.parametrize(
    ("image", "is_blocked"),
    [
        ("{t}/own/x", False),
        ("{t}/x", True),
        ("nbd://127.0.0.1/x", False),
        (json.dumps({"driver": "raw", "file": {"driver": "file", "filename": "{t}/x"}}), True),
        ("/dev/fdset/4", False),
        ("fat:{t}/x", True),
    ],
)
def test_an_image_is_judged_by_where_it_is(tmp_path, image, is_blocked):
    (tmp_path / "own").mkdir()
    places = Places(tmp_path / "own", (tmp_path / "own",))
    image = image.replace("{t}", str(tmp_path))
    image = f"json:{image}" if image.startswith("{") else image
    drawn, named = graph("a:backing:b", "b:file:bf")
    named = [{**each, "file": image} for each in named]
    arguments = ("block-commit", {"device": "a"}, Nodes(drawn, named), places)
    if is_blocked:
        with pytest.raises(CommandBlocked):
            judge_rewriting(*arguments, frozenset())
    judge_rewriting(*arguments, frozenset({"block-commit"}) if is_blocked else frozenset())


def test_every_command_that_is_asked_about_is_in_the_table():
    from pytest_qemuvm.qmp.policy import table

    assert [name for name in table() if reopens(name)] == [
        *("block-commit", "block-stream", "blockdev-reopen", "change-backing-file", "x-blockdev-amend"),
    ]
