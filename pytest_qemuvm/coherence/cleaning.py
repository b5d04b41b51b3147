"""Taking away what a check found, so that the next test begins clean: the inverse of each kind of leak."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.coherence.facts import ProcessFact
from pytest_qemuvm.errors import CommandError, QemuVMError
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.sweep import remove_link, stat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_qemuvm.coherence.finding import Finding
    from pytest_qemuvm.qmp import Qmp

_KILL_SECONDS = 5.0
_GONE_SECONDS = 10.0
"""How long a guest may take to let go a device that a test has left, and a job to end."""


def remove_process(finding: Finding) -> None:
    """Kill the process that was seen, by its identity, and wait until it has ended."""
    process = finding.key
    assert isinstance(process, ProcessFact)
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # The pidfd is of whoever has the pid now.
        if stat(process.pid)[1] != process.start:
            return
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not select.select([pidfd], [], [], _KILL_SECONDS)[0]:
            raise QemuVMError(f"process {process.pid} did not end within {_KILL_SECONDS:g} s of SIGKILL")
        # A child of ours would stay as a zombie; whoever else's parent it has does what it does.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except (ProcessLookupError, FileNotFoundError):
        return
    finally:
        os.close(pidfd)


def remove_file(finding: Finding, root: Path) -> None:
    """Remove a file that lies in the session's directory."""
    path = finding.key
    assert isinstance(path, Path)
    if root not in path.parents:
        raise QemuVMError(f"{path} is not in the session's directory, and stays")
    path.unlink(missing_ok=True)


def remove_network_device(finding: Finding) -> None:
    """Remove a network device of the host. Raises QemuVMError where that is not allowed."""
    if not remove_link(str(finding.key)):
        raise QemuVMError(f"the network device {finding.key} cannot be removed")


_BACKENDS = {
    "leaked_block_node": ("blockdev-del", "node-name"),
    "leaked_netdev": ("netdev_del", "id"),
    "leaked_chardev": ("chardev-remove", "id"),
    "leaked_object": ("object-del", "id"),
}


def clean_graph(findings: Iterable[Finding], qmp: Qmp, eject: Callable[[], object]) -> dict[Finding, str]:
    """Take out of a running QEMU what a test has left in it; return what could not be, and why.

    Jobs go first, then devices, then what was behind them, in any order that QEMU accepts: one node may rest
    on another. ``eject`` plays the guest where there is none.
    """
    left = list(findings)
    problems: dict[Finding, str] = {}
    for kind, remove in (("leaked_job", _remove_job), ("leaked_device", _remove_device)):
        for finding in [finding for finding in left if finding.kind == kind]:
            left.remove(finding)
            try:
                remove(qmp, str(finding.key), eject)
            except QemuVMError as error:
                problems[finding] = error.brief
    while left:
        stuck: dict[Finding, str] = {}
        for finding in left:
            try:
                _remove_backend(qmp, finding)
            except QemuVMError as error:
                stuck[finding] = error.brief
        if len(stuck) == len(left):
            return {**problems, **stuck}
        left = list(stuck)
    return problems


def _remove_backend(qmp: Qmp, finding: Finding) -> None:
    if finding.kind == "leaked_fdset":
        qmp.execute("remove-fd", {"fdset-id": int(str(finding.key))})
        return
    command, key = _BACKENDS[finding.kind]
    qmp.execute(command, {key: finding.key})


def _remove_device(qmp: Qmp, name: str, eject: Callable[[], object]) -> None:
    if name.startswith("anonymous "):
        raise QemuVMError("QEMU can remove devices by their id alone, and it has none")
    deadline = Deadline.after(_GONE_SECONDS)
    since = qmp.events.last
    try:
        qmp.execute("device_del", {"id": name}, timeout=deadline)
    except CommandError as error:
        # Gone already, or asked for by the test itself, which did not wait.
        if error.class_ == "DeviceNotFound":
            return
        since = 0
    eject()
    qmp.wait_event("DEVICE_DELETED", {"device": name}, since=since, timeout=deadline)


def _remove_job(qmp: Qmp, name: str, _eject: Callable[[], object]) -> None:
    deadline = Deadline.after(_GONE_SECONDS)
    since = qmp.events.last
    job = _job(qmp, name)
    if job is None:
        return
    if job["status"] != "concluded":
        # By force: a mirror that is ready would else be completed, and a paused job would wait for ever.
        qmp.execute("block-job-cancel", {"device": name, "force": True}, timeout=deadline)
        qmp.wait_event(
            "JOB_STATUS_CHANGE",
            lambda data: data["id"] == name and data["status"] in ("concluded", "null"),
            since=since,
            timeout=deadline,
        )
    with contextlib.suppress(CommandError):  # most jobs dismiss themselves
        qmp.execute("job-dismiss", {"id": name}, timeout=deadline)


def _job(qmp: Qmp, name: str) -> dict[str, str] | None:
    return next((job for job in qmp.execute("query-jobs") if job["id"] == name), None)
