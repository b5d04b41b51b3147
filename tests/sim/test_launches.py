"""Command lines that QEMU refuses: status and words of the real one and of the simulator."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from qmp_talk import LEAN, SIMULATOR

CORPUS = Path(__file__).parent / "corpus"
LAUNCHES = json.loads((CORPUS / "launches.json").read_text())
SECONDS = 20


def refusal(program, words, ground, version=None):
    """Return status and messages; None for one that is not refused."""
    environment = {**os.environ, **({"QEMUVM_SIM_VERSION": version} if version else {})}
    argv = [*program, *LEAN, "-S", *(word.replace("{dir}", str(ground)) for word in words)]
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    try:
        _, messages = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    messages = messages.replace(str(ground), "{dir}")
    lines = [re.sub(r"^[^:]*qemu-system-x86_64:", "qemu:", line) for line in messages.splitlines()]
    return process.returncode, [line for line in lines if "warning:" not in line]


@pytest.mark.parametrize("words", LAUNCHES, ids=" ".join)
def test_refused_with_the_same_status_and_words(words, real_qemu, real_version, simulated_version, ground):
    if f"{real_version[0]}.{real_version[1]}" != simulated_version:
        pytest.skip(f"there is no recording of QEMU {real_version[0]}.{real_version[1]} to hold against it")
    assert refusal(SIMULATOR, words, ground, simulated_version) == refusal(real_qemu, words, ground)
