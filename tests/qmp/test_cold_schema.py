"""The first command of all: QEMU's schema has a time of its own, and nobody waits for it twice."""

import asyncio
import os
import signal

import pytest

from pytest_qemuvm.errors import QmpTimeout, UnknownCommand
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.qmp import inquiry
from pytest_qemuvm.qmp.schemas import SchemaSource

pytestmark = pytest.mark.qemuvm(template="bare")

FACES = {
    "sync": lambda qmp, *call, **more: qmp.execute(*call, **more),
    "aio": lambda qmp, *call, **more: asyncio.run(qmp.aio.execute(*call, **more)),
}
AT_ONCE = 1e-9
"""Seconds that are over before anything can come."""


@pytest.fixture(params=FACES.values(), ids=FACES)
def execute(request):
    return request.param


@pytest.fixture
def fresh(vm, tmp_path):
    """The VM's QEMU is one that nobody has seen before."""
    vm.qmp._session.warden.schemas = SchemaSource(tmp_path, "fresh")
    return vm.qmp._session.warden.schemas


@pytest.fixture
def stopped(vm, fresh):
    """QEMU is stopped, and goes on when this is called."""
    os.kill(vm.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, vm.pid, os.WSTOPPED | os.WNOWAIT)
    yield lambda: os.kill(vm.pid, signal.SIGCONT)
    os.kill(vm.pid, signal.SIGCONT)


def test_it_takes_nothing_of_the_first_commands_time(vm, fresh, execute):
    with pytest.raises(QmpTimeout) as caught:
        execute(vm.qmp, "query-name", timeout=AT_ONCE)
    assert caught.value.waited_for == "the reply to query-name"
    assert fresh.settled
    with pytest.raises(UnknownCommand):
        execute(vm.qmp, "query-nam", timeout=AT_ONCE)


def test_a_deadline_that_runs_already_holds_for_it_too(vm, stopped, execute, monkeypatch):
    monkeypatch.setattr(inquiry, "SCHEMA_SECONDS", 3600.0)
    with pytest.raises(QmpTimeout):
        execute(vm.qmp, "query-name", timeout=Deadline.after(0.05))


def test_where_qemu_stands_still_nobody_waits_for_it_twice(vm, stopped, execute, monkeypatch, qemuvm):
    begin = len(qemuvm.audited(vm.name))
    monkeypatch.setattr(inquiry, "SCHEMA_SECONDS", 0.05)
    with pytest.raises(QmpTimeout):
        execute(vm.qmp, "query-name", timeout=0.05)
    monkeypatch.setattr(inquiry, "SCHEMA_SECONDS", 3600.0)
    with pytest.raises(QmpTimeout):
        execute(vm.qmp, "query-version", timeout=0.05)
    told = [(line["command"], line["outcome"]) for line in qemuvm.audited(vm.name)[begin:]]
    unknown = [("query-qmp-schema", "timeout"), ("query-name", "timeout"), ("query-version", "timeout")]
    assert told == unknown


def test_a_reply_that_comes_late_is_learnt_from_after_all(vm, fresh, stopped, execute, monkeypatch):
    monkeypatch.setattr(inquiry, "SCHEMA_SECONDS", 0.05)
    with pytest.raises(QmpTimeout):
        execute(vm.qmp, "query-name", timeout=0.05)
    assert not fresh.settled
    stopped()
    # QEMU answers in order: that of the schema has been dealt with when this one is here.
    vm.qmp.execute("query-name")
    assert fresh.settled
    with pytest.raises(UnknownCommand):
        execute(vm.qmp, "query-nam")
