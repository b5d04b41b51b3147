"""The audit's file: one sequence whoever writes, and no command fails because of it."""

import datetime as dt
import json
import logging
import subprocess
import sys

import pytest

from pytest_qemuvm.qmp.audit import KEYS, AuditLog, read, readable

LINE = {
    "vm": "vm0",
    "command": "query-status",
    "arguments": (),
    "class_": "safe",
    "transport": "owner",
    "nodeid": "test_m.py::test_it",
    "duration": 0.25,
    "outcome": "ok",
}

WRITER = """
import sys
from pathlib import Path
from pytest_qemuvm.qmp.audit import AuditLog
log = AuditLog(Path(sys.argv[1]))
sys.stdin.readline()
for number in range(100):
    log.note(vm=sys.argv[2], command="query-name", arguments=["a"], class_="safe", transport="second",
             nodeid="", duration=0.0, outcome="ok")
"""


@pytest.fixture
def log(tmp_path):
    log = AuditLog(tmp_path / "audit")
    yield log
    log.close()


def test_a_line_has_its_keys_in_order_and_is_there_at_once(log):
    log.note(**{**LINE, "arguments": ["path", "property"]})
    (text,) = log.path.read_text().splitlines()
    line = json.loads(text)
    assert tuple(line) == KEYS
    assert (line["seq"], line["duration"], line["arguments"]) == (1, 0.25, ["path", "property"])
    began = dt.datetime.fromisoformat(line["timestamp"])
    assert began.utcoffset() == dt.timedelta(0)
    assert log.path.stat().st_mode & 0o077 == 0


def test_threads_and_processes_write_one_sequence(log, in_thread):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(log.path), f"vm{number}"], stdin=subprocess.PIPE, text=True
        )
        for number in range(2)
    ]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()

    def many():
        for _ in range(100):
            log.note(**LINE)

    for call in [in_thread(many) for _ in range(3)]:
        call.result(60)
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert [line["seq"] for line in log.lines()] == list(range(1, 501))
    assert len(log.lines("vm1")) == 100


def test_a_sequence_goes_on_where_another_left_off(log):
    for _ in range(3):
        log.note(**LINE)
    later = AuditLog(log.path)
    later.note(**LINE)
    later.close()
    log.note(**LINE)
    assert [line["seq"] for line in read(log.path)] == [1, 2, 3, 4, 5]


def test_what_cannot_be_written_is_told_once_and_fails_nobody(tmp_path, caplog):
    log = AuditLog(tmp_path / "nowhere" / "audit")
    for _ in range(3):
        log.note(**LINE)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert log.lines() == []
    (tmp_path / "nowhere").mkdir()
    log.note(**LINE)
    assert [line["seq"] for line in log.lines()] == [1]
    log.close()


def test_after_its_end_nothing_is_written(log):
    log.note(**LINE)
    log.close()
    log.close()
    log.note(**LINE)
    assert len(log.lines()) == 1


def test_a_file_that_somebody_has_spoilt_fails_nobody(log, caplog):
    log.note(**LINE)
    log.path.write_text("no JSON\n")
    log.note(**LINE)
    assert "cannot be written" in caplog.text


def test_people_can_read_it(log):
    log.note(**{**LINE, "arguments": ["path"], "command": "qom-list", "outcome": "error"})
    text = readable(log.lines())
    assert text.endswith("qom-list(path)")
    assert "250.0 ms  error" in text
