"""The second monitor of a machine that somebody else started: found by the VM's name, and connected to."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import ConnectError, MonitorBusy, NotRunning
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.loop import LoopThread
from pytest_qemuvm.qmp.audit import AUDIT_NAME, AuditLog
from pytest_qemuvm.qmp.client import Client
from pytest_qemuvm.qmp.devices import KnownDevices
from pytest_qemuvm.qmp.policy import Places
from pytest_qemuvm.qmp.schemas import SchemaSource
from pytest_qemuvm.qmp.session import DEFAULT_TIMEOUT
from pytest_qemuvm.qmp.warden import Warden

if TYPE_CHECKING:
    from pytest_qemuvm.host.lookup import Running

GREETING_SECONDS = 5.0
"""For QEMU's greeting, which takes a millisecond, and for other clients to leave before that."""


def connect(
    vm_name: str,
    *,
    session: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    patience: float = GREETING_SECONDS,
) -> Client:
    """Connect to the second monitor of a running VM, from any process of the same user.

    The VM is looked for in the session with that tag; without it in the living sessions, this process's own
    first. ``timeout``, in seconds, holds for each later wait that names none; ``patience``, in seconds, for
    the greeting: the monitor has one client at a time, and the next is served when that one leaves.

    Raises VMNotFound, AmbiguousName where several sessions have such a VM, NotRunning where it has ended,
    MonitorBusy where somebody else stays connected, UnsafeDirectory and PathTooLong for a socket that must or
    can not be used, and ConnectError where QEMU does not greet for another reason.
    """
    from pytest_qemuvm.host.lookup import find_vm  # noqa: PLC0415  # the owner of a VM never needs it

    return open_monitor(find_vm(vm_name, session), timeout, Deadline.after(patience))


def open_monitor(vm: Running, timeout: float, deadline: Deadline) -> Client:
    """Connect to a VM that has been found; raises as ``connect`` does."""
    from pytest_qemuvm.host.process import LOG_NAME, Stranger  # noqa: PLC0415  # as above
    from pytest_qemuvm.host.sockets import dial, is_taken  # noqa: PLC0415  # as above

    try:
        process = Stranger(*vm.process, vm.run_dir / LOG_NAME)
    except ProcessLookupError as error:
        raise NotRunning(f"VM {vm.name!r} of session {vm.session} has just ended") from error
    try:
        sock = dial(vm.monitor, deadline)
    except BaseException:
        process.close()
        raise
    loop = LoopThread()
    warden = _warden(vm)
    client = Client(loop, sock, death=process, timeout=timeout, warden=warden)
    client.take_over(loop.close, process.close)
    if warden.audit is not None:
        client.take_over(warden.audit.close)
    try:
        client.connect(deadline)
    except ConnectError as error:
        # Looked up while our socket is still in the queue.
        taken = is_taken(vm.monitor)
        client.close()
        if taken:
            raise MonitorBusy(
                f"somebody else is connected to the second monitor of VM {vm.name!r}",
                f"session {vm.session}, {vm.monitor}; waited {deadline.seconds:g} s for them to leave",
                "a `qemuvm qmp` in another terminal, or a client that was not closed?",
                path=vm.monitor,
            ) from error
        raise
    except BaseException:
        client.close()
        raise
    return client


def _warden(vm: Running) -> Warden:
    """Return who judges what is sent there: as the owner does, by what it says, into the same audit."""
    from pytest_qemuvm.host.rulebook import Rulebook  # noqa: PLC0415  # the owner of a VM never needs it

    session = vm.run_dir.parent
    rules = Rulebook(session)
    qemu = rules.qemu
    own: list[str | os.PathLike[str]] = [vm.run_dir]
    if rules.artifacts is not None:
        own.append(rules.artifacts)
    return Warden(
        vm=vm.name,
        transport="second",
        places=Places(vm.run_dir, tuple(own), (session,), partial(rules.disks, vm.name)),
        permitted=rules.permitted,
        nodeid=lambda: os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0],
        schemas=SchemaSource(Path(qemu.cache) if qemu.cache else None, qemu.fingerprint),
        audit=AuditLog(session / AUDIT_NAME),
        devices=KnownDevices(qemu.binary),
        strict=rules.strict,
    )
