"""The simulator as a process: what it opens, locks, prints, and how it ends."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from qmp_talk import LEAN, SIMULATOR, Talk

from pytest_qemuvm.sim import archive

BOTH = pytest.mark.parametrize("version", archive.VERSIONS)


def ask(talk, command, **arguments):
    talk.send(json.dumps({"execute": command, "arguments": arguments}).encode())
    while True:
        message = talk.receive()
        if "event" not in message:
            return message


@pytest.fixture
def talk():
    with Talk(SIMULATOR, [*LEAN, "-machine", "q35"], "7.2") as peer:
        peer.negotiate()
        yield peer


def node(path, name="q", **more):
    return {"driver": "qcow2", "node-name": name, "file": {"driver": "file", "filename": str(path)}, **more}


def test_real_programs_see_its_locks_and_it_sees_theirs(talk, ground):
    disk = ground / "disk.qcow2"
    assert ask(talk, "blockdev-add", **node(disk)) == {"return": {}}
    write = ["qemu-io", "-c", "write 0 64k", str(disk)]
    refused = subprocess.run(write, capture_output=True, text=True, check=False)
    assert "lock" in refused.stderr
    ask(talk, "blockdev-del", **{"node-name": "q"})
    subprocess.run(write, check=True, capture_output=True)
    with subprocess.Popen(
        ["qemu-io", str(disk)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdin.write("info\n")
        other.stdin.flush()
        other.stdout.readline()
        assert ask(talk, "blockdev-add", **node(disk))["error"]["desc"] == 'Failed to get "write" lock'
        other.stdin.close()


def test_two_simulators_do_not_share_an_image_unless_they_only_read(ground):
    disk = ground / "disk.qcow2"
    argv = [*LEAN, "-machine", "q35"]
    with Talk(SIMULATOR, argv, "7.2") as one, Talk(SIMULATOR, argv, "10.0") as two:
        one.negotiate()
        two.negotiate()
        assert ask(one, "blockdev-add", **node(disk, **{"read-only": True})) == {"return": {}}
        assert ask(two, "blockdev-add", **node(disk, **{"read-only": True})) == {"return": {}}
        ask(two, "blockdev-del", **{"node-name": "q"})
        assert "lock" in ask(two, "blockdev-add", **node(disk))["error"]["desc"]


def test_an_image_that_was_resized_is_whole_and_of_that_size(talk, ground):
    disk = ground / "disk.qcow2"
    ask(talk, "blockdev-add", **node(disk))
    assert ask(talk, "block_resize", **{"node-name": "q", "size": 8 << 20}) == {"return": {}}
    ask(talk, "blockdev-del", **{"node-name": "q"})
    told = subprocess.run(["qemu-img", "info", "--output=json", disk], check=True, capture_output=True).stdout
    assert json.loads(told)["virtual-size"] == 8 << 20
    subprocess.run(["qemu-img", "check", disk], check=True, capture_output=True)


def test_descriptors_are_passed_and_opened(talk, ground):
    with (ground / "disk.qcow2").open("r+b") as file:
        command = b'{"execute":"add-fd","arguments":{"fdset-id":3,"opaque":"mine"}}'
        socket.send_fds(talk.socket, [command], [file.fileno()])
        assert talk.receive()["return"]["fdset-id"] == 3
    assert ask(talk, "query-fdsets")["return"][0]["fds"][0]["opaque"] == "mine"
    path = "/dev/fdset/3"
    assert ask(talk, "blockdev-add", driver="file", filename=path, **{"node-name": "f"}) == {"return": {}}
    ask(talk, "blockdev-del", **{"node-name": "f"})
    assert ask(talk, "remove-fd", **{"fdset-id": 3}) == {"return": {}}
    assert ask(talk, "query-fdsets") == {"return": []}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_with_status_0_and_a_word(talk, number):
    talk.process.send_signal(number)
    message = talk.receive()
    assert (message["event"], message["data"]) == ("SHUTDOWN", {"guest": False, "reason": "host-signal"})
    assert talk.process.wait(20) == 0
    assert b"terminating on signal" in talk.process.stderr.read()


def test_a_second_client_of_a_listener_is_greeted_when_the_first_has_gone(tmp_path):
    path = tmp_path / "monitor"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    words = [
        "-chardev",
        f"socket,id=two,fd={listener.fileno()},server=on,wait=off",
        "-mon",
        "chardev=two,mode=control",
    ]
    process = subprocess.Popen([*SIMULATOR, *LEAN, *words], pass_fds=[listener.fileno()])
    listener.close()
    try:
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(20)
                client.connect(str(path))
                assert b'"QMP"' in client.recv(1 << 16)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("screendump", {"filename": "/tmp/screen"}),
        ("dump-guest-memory", {"paging": False, "protocol": "file:/tmp/dump"}),
        ("pmemsave", {"val": 0, "size": 1, "filename": "/tmp/dump"}),
        ("migrate", {"uri": "unix:/tmp/socket"}),
        ("human-monitor-command", {"command-line": "info registers"}),
        ("blockdev-add", {"driver": "nbd", "node-name": "n", "server": {"type": "unix", "path": "/x"}}),
    ],
)
def test_what_is_not_modelled_is_a_loud_error_and_never_an_answer(talk, command, arguments):
    error = ask(talk, command, **arguments)["error"]
    assert "simulated QEMU" in error["desc"]


def test_every_command_of_the_schema_is_answered_or_refused_aloud(talk):
    names = [entry["name"] for entry in ask(talk, "query-commands")["return"]]
    assert len(names) > 200
    for name in sorted(set(names) - {"quit", "qmp_capabilities"}):
        answer = ask(talk, name)
        assert ("return" in answer) != ("error" in answer), name
        if "return" in answer and not name.startswith(("query-", "x-query-")):
            assert name in {
                "stop",
                "cont",
                "system_reset",
                "system_powerdown",
                "inject-nmi",
                "qom-list-types",
            }


@BOTH
def test_what_it_prints_is_what_was_recorded(version):
    environment = {**os.environ, "QEMUVM_SIM_VERSION": version}

    def printed(*words):
        return subprocess.run(
            [*SIMULATOR, *words], env=environment, check=True, capture_output=True, text=True
        ).stdout

    assert printed("--version").startswith(f"QEMU emulator version {version}.")
    assert 'name "virtio-blk-pci", bus PCI' in printed("-machine", "none", "-device", "help")
    assert "dma_mask=<uint64>" in printed("-device", "edu,help")
    assert "q35" in printed("-machine", "help")


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 100, b'{"dictionary": [0, 4]}\nabcd'])
def test_a_damaged_recording_is_told_of(tmp_path, content):
    (tmp_path / "7.2").mkdir()
    (tmp_path / "7.2" / archive.NAME).write_bytes(content)
    with pytest.raises(archive.DamagedRecording):
        archive.Archive("7.2", str(tmp_path))


def test_an_archive_gives_back_what_was_put_in(tmp_path):
    pieces = {f"piece/{number}": json.dumps({"n": [number] * 400}).encode() for number in range(20)}
    (tmp_path / "1.0").mkdir()
    archive.write(str(tmp_path / "1.0" / archive.NAME), pieces)
    read = archive.Archive("1.0", str(tmp_path))
    assert {name: read.raw(name) for name in pieces} == pieces
    assert read.names("piece/") == sorted(str(number) for number in range(20))


@BOTH
def test_recordings_are_of_a_modest_size(version):
    assert Path(archive.Archive(version).path).stat().st_size < 1_000_000


def test_a_character_device_on_a_descriptor_that_was_passed(talk):
    ours, theirs = socket.socketpair()
    with ours:
        socket.send_fds(
            talk.socket, [b'{"execute":"getfd","arguments":{"fdname":"mine"}}'], [theirs.fileno()]
        )
        theirs.close()
        assert talk.receive() == {"return": {}}
        backend = {
            "type": "socket",
            "data": {"addr": {"type": "fd", "data": {"str": "mine"}}, "server": False},
        }
        assert ask(talk, "chardev-add", id="c", backend=backend) == {"return": {}}
        assert "not been found" in ask(talk, "chardev-add", id="d", backend=backend)["error"]["desc"]
        assert ask(talk, "chardev-remove", id="c") == {"return": {}}
        ours.settimeout(20)
        assert ours.recv(1) == b""
