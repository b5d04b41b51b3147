"""A program may hang, flood its output or leave children: we are back in time and none of it is left."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from pytest_qemuvm.host.bounded import KEPT_OUTPUT, run_bounded


def gone(pid: int) -> bool:
    """True once a process is dead; one of ours that init has not reaped yet is dead too."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        os.sched_yield()
    return False


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def sh(script: str, seconds: float = 20.0, **more):
    return run_bounded(["sh", "-c", script], seconds=seconds, **more)


def test_the_streams_and_the_status_are_kept_apart():
    outcome = sh("echo out; echo err >&2; exit 3")
    assert (outcome.stdout, outcome.stderr, outcome.status, outcome.ok) == ("out\n", "err\n", 3, False)
    assert "exit status 3" in outcome.evidence()


def test_messages_are_asked_for_in_english():
    assert sh("echo $LC_ALL $EXTRA", env={"EXTRA": "more"}).stdout == "C more\n"


def test_stdin_is_empty():
    assert sh("cat; echo end").stdout == "end\n"


def test_a_program_that_hangs_is_killed_with_its_children(tmp_path):
    pids = tmp_path / "pids"
    start = time.monotonic()
    outcome = sh(f"sleep 1000 & echo $$ $! > {pids}; wait", seconds=0.3)
    assert time.monotonic() - start < 3
    assert outcome.status is None
    assert "still running" in outcome.ending()
    assert all(gone(int(pid)) for pid in pids.read_text().split())


def test_a_child_that_keeps_the_pipes_open_does_not_hold_us_up():
    start = time.monotonic()
    outcome = sh("sleep 1000 & echo $!")
    assert time.monotonic() - start < 5
    assert outcome.ok
    assert gone(int(outcome.stdout))


def test_a_flood_ends_at_the_deadline_and_only_its_beginning_is_kept():
    outcome = sh("yes", seconds=0.3)
    assert outcome.status is None
    assert len(outcome.stdout) == KEPT_OUTPUT


def test_all_that_was_written_before_the_end_is_read():
    outcome = run_bounded([sys.executable, "-c", "print('x' * 200_000)"], seconds=20)
    assert len(outcome.stdout) == 200_001


def test_a_signal_is_named():
    outcome = sh("kill -SEGV $$")
    assert outcome.status == -signal.SIGSEGV
    assert outcome.ending() == "killed by SIGSEGV"


def test_the_kernel_ends_a_spinning_program_without_us():
    outcome = sh("while :; do :; done", seconds=30, cpu_seconds=1)
    assert outcome.status in {-signal.SIGKILL, -signal.SIGXCPU}


def test_what_cannot_be_started_raises():
    with pytest.raises(FileNotFoundError):
        run_bounded(["/nonexistent"], seconds=1)


def test_no_descriptor_is_left_open():
    before = open_descriptors()
    sh("true")
    sh("sleep 1000", seconds=0.05)
    assert open_descriptors() == before
