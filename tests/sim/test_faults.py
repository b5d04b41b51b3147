"""Faults on demand: what goes wrong does so as with a real QEMU."""

import json
import os
import signal
import subprocess

import pytest
from qmp_talk import LEAN, SIMULATOR, Talk

ARGV = [*LEAN, "-machine", "q35", "-device", "pcie-root-port,id=rp0,chassis=1", "-device", "edu,id=e,bus=rp0"]


@pytest.fixture
def talk(monkeypatch):
    talks = []

    def start(faults=None, *more, version="10.0"):
        if faults is not None:
            monkeypatch.setenv("QEMUVM_SIM_FAULTS", json.dumps(faults))
        talks.append(Talk(SIMULATOR, [*ARGV, *more], version))
        return talks[-1]

    yield start
    for each in talks:
        each.__exit__()


def ask(talk, command, **arguments):
    talk.send(json.dumps({"execute": command, "arguments": arguments}).encode())
    return talk.receive()


@pytest.mark.parametrize(
    ("how", "status"), [({"status": 3}, 3), ({"signal": signal.SIGKILL}, -signal.SIGKILL), ({}, 1)]
)
def test_it_ends_at_launch(talk, how, status):
    peer = talk({"launch": {**how, "stderr": "the reason"}})
    assert peer.process.wait(20) == status
    assert peer.process.stderr.read() == b"the reason\n"
    assert peer.receive() is None


def test_it_hangs_at_launch_and_can_be_terminated(talk):
    peer = talk({"launch": {"hang": True, "stderr": "I hang"}})
    assert peer.process.stderr.readline() == b"I hang\n"
    peer.process.terminate()
    assert peer.process.wait(20) == -signal.SIGTERM
    assert peer.receive() is None


@pytest.mark.parametrize(("how", "status"), [({"status": 5}, 5), ({"signal": 6}, -6)])
def test_it_crashes_after_some_commands(talk, how, status):
    peer = talk({"crash_after": {"commands": 2, **how}})
    peer.negotiate()
    assert "return" in ask(peer, "query-status")
    assert "return" in ask(peer, "query-status")
    assert ask(peer, "query-status") is None
    assert peer.process.wait(20) == status


def test_it_hangs_after_some_commands_and_still_obeys_a_signal(talk):
    peer = talk({"hang_after": 1})
    peer.negotiate()
    assert "return" in ask(peer, "query-status")
    peer.send(b'{"execute":"stop"}')
    peer.process.terminate()
    assert peer.receive()["data"]["reason"] == "host-signal"
    assert peer.process.wait(20) == 0


def test_it_disconnects_and_lives_on(talk):
    peer = talk({"disconnect_after": 1})
    peer.negotiate()
    assert "return" in ask(peer, "query-status")
    assert ask(peer, "query-status") is None
    assert peer.process.poll() is None


def test_replies_come_late(talk):
    peer = talk({"slow_ms": 50})
    peer.negotiate()
    peer.send(b'{"execute":"stop"}{"execute":"cont"}')
    came = [peer.receive() for _ in range(4)]
    assert [message.get("event") for message in came] == ["STOP", "RESUME", None, None]


def test_packets_are_split_and_mean_the_same(talk):
    whole, split = talk(None), talk({"split": 7})
    assert whole.negotiate() == split.negotiate()
    assert (
        ask(whole, "query-cpus-fast")["return"][0]["target"]
        == ask(split, "query-cpus-fast")["return"][0]["target"]
    )


def test_a_storm_of_events_comes_before_the_first_reply(talk):
    peer = talk({"storm": {"event": "RTC_CHANGE", "data": {"offset": 1}, "count": 2000}})
    peer.negotiate()
    peer.send(b'{"execute":"query-status"}')
    came = [peer.receive() for _ in range(2001)]
    assert {message.get("event") for message in came[:-1]} == {"RTC_CHANGE"}
    assert "return" in came[-1]
    assert "return" in ask(peer, "query-status")


def test_a_guest_that_refuses_an_unplug(talk):
    peer = talk({"guest": {"model": "cooperative", "after_ms": 1}, "unplug": {"refuse": ["e"]}})
    peer.negotiate()
    assert ask(peer, "device_del", id="e") == {"return": {}}
    assert peer.receive()["event"] == "DEVICE_UNPLUG_GUEST_ERROR"
    names = {entry["name"] for entry in ask(peer, "qom-list", path="/machine/peripheral")["return"]}
    assert "e" in names


def test_a_cooperative_guest_lets_go_and_obeys_the_button(talk):
    peer = talk({"guest": {"model": "cooperative", "after_ms": 1}}, "-action", "shutdown=pause")
    peer.negotiate()
    ask(peer, "device_del", id="e")
    assert peer.receive()["data"]["device"] == "e"
    peer.send(b'{"execute":"system_powerdown"}')
    came = [peer.receive() for _ in range(4)]
    assert [message.get("event") for message in came] == ["POWERDOWN", None, "SHUTDOWN", "STOP"]
    assert came[2]["data"] == {"guest": True, "reason": "guest-shutdown"}
    assert ask(peer, "query-status")["return"]["status"] == "shutdown"


def test_an_absent_guest_does_nothing(talk):
    peer = talk({"guest": "absent"})
    peer.negotiate()
    assert ask(peer, "device_del", id="e") == {"return": {}}
    peer.send(b'{"execute":"system_reset"}')
    came = [peer.receive() for _ in range(3)]
    assert [message.get("event") for message in came] == ["RESET", None, "DEVICE_DELETED"]


@pytest.mark.parametrize(
    "faults",
    ['{"crash_afetr": {}}', '{"slow_ms": "much"}', "[1]", "{", '{"guest": "friendly"}', "/nonexistent"],
)
def test_faults_that_mean_nothing_are_refused(faults):
    environment = {**os.environ, "QEMUVM_SIM_FAULTS": faults}
    ended = subprocess.run([*SIMULATOR, *ARGV], env=environment, capture_output=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"qemu-system-x86_64: ")


def test_faults_from_a_file(monkeypatch, tmp_path, talk):
    path = tmp_path / "faults.json"
    path.write_text('{"launch": {"status": 9}}')
    monkeypatch.setenv("QEMUVM_SIM_FAULTS", str(path))
    assert talk(None).process.wait(20) == 9


@pytest.mark.parametrize("version", ["6.0", "nonsense"])
def test_a_version_without_a_recording_is_refused(version, talk):
    peer = talk(None, version=version)
    assert peer.process.wait(20) == 1
    assert version.encode() in peer.process.stderr.read()
