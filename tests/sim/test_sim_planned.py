"""Every command line that is kept as a golden file is one that the simulator starts with."""

import json
import re
import shlex
import socket
import subprocess
from pathlib import Path

import pytest
from qmp_talk import HALT, SIMULATOR

from pytest_qemuvm.sim.archive import VERSIONS

GOLDEN = Path(__file__).parents[1] / "plan" / "golden"
REFUSED = {
    "drivers-and-properties": "Can't create debugcon device, empty char device",
    "disks-that-fail": "does not model",
}
"""What QEMU itself refuses, as golden files are about words; and what the simulator does not model."""


@pytest.fixture
def ends(tmp_path):
    """Return a function that gives a descriptor by its name, and ours of the one called ``qmp``."""
    made = {}

    def end(name):
        if name == "monitor":
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(tmp_path / "monitor"))
            listener.listen(1)
            made[name] = (listener, listener)
        else:
            # What a NIC is on carries frames.
            kind = socket.SOCK_DGRAM if "-net" in name else socket.SOCK_STREAM
            made[name] = socket.socketpair(socket.AF_UNIX, kind)
        return made[name][1].fileno()

    yield made, end
    for pair in made.values():
        for each in pair:
            each.close()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.txt")))
def test_it_starts(name, version, ends, tmp_path, monkeypatch):
    made, end = ends
    monkeypatch.setenv("QEMUVM_SIM_VERSION", version)
    for path in ("firmware.bin", "kernel", "disk0.raw", "disk1.raw", "disk1.writes"):
        (tmp_path / path).write_bytes(HALT)
    for disk in ("disk0", "disk1", "disk2", "disk3", "disk1.cache"):
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / f"{disk}.qcow2", "1M"], check=True
        )
    text = (GOLDEN / f"{name}.txt").read_text()
    text = re.sub(r"/cache/\w+", str(tmp_path / "kernel"), text.replace("/run/qemuvm/vm0", str(tmp_path)))
    text = re.sub(r"\{fd:([\w-]+)\}", lambda found: str(end(found[1])), text)
    words = shlex.split(text)[1:]
    process = subprocess.Popen(
        [*SIMULATOR, *words],
        pass_fds=[theirs.fileno() for _, theirs in made.values()],
        stderr=subprocess.PIPE,
    )
    try:
        for ours, theirs in made.values():
            if ours is not theirs:
                theirs.close()
        if name in REFUSED:
            assert process.wait(20) == 1
            assert REFUSED[name] in process.stderr.read().decode()
            return
        monitor = made["qmp"][0]
        monitor.settimeout(20)
        greeting = json.loads(monitor.recv(1 << 16))["QMP"]["version"]["qemu"]
        assert f"{greeting['major']}.{greeting['minor']}" == version
    finally:
        process.kill()
        process.communicate()
