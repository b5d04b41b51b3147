"""What a VM is: what can be seen of it from outside, and a record of what the harness believes."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import NotConnected, NotRunning, QmpDisconnected
from pytest_qemuvm.machine.caches import Caches
from pytest_qemuvm.machine.record import Recorder
from pytest_qemuvm.machine.uses import Uses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_qemuvm.devices.place import Image
    from pytest_qemuvm.guest.agent import Identity
    from pytest_qemuvm.guest.console import Console
    from pytest_qemuvm.host.memory import MemoryFile
    from pytest_qemuvm.machine.ladder import StopStep
    from pytest_qemuvm.machine.live import Live
    from pytest_qemuvm.machine.making import Blueprint
    from pytest_qemuvm.machine.record import VMRecord
    from pytest_qemuvm.machine.services import Services
    from pytest_qemuvm.plan import MachinePlan, PlannedNic
    from pytest_qemuvm.qmp import Qmp
    from pytest_qemuvm.spec.vm import VMSpec


_AT_REST = ("prelaunch", "restore-vm", "save-vm", "finish-migrate", "postmigrate")
"""QEMU's words for processors that stand still for the harness's sake, or were never let go."""


class Observed:
    """A VM as it is now.

    ``state`` is observed each time it is asked for; ``record`` is what the harness believes.
    """

    def __init__(
        self,
        name: str,
        spec: VMSpec,
        blueprint: Blueprint,
        services: Services,
        images: Sequence[Image] = (),
        memory: MemoryFile | None = None,
    ) -> None:
        self.name = name
        self.spec = spec
        self.blueprint = blueprint
        """What it is planned from; for the harness."""
        self.stopped_by: StopStep | None = None
        """What ended the last run: ``powerdown``, ``quit``, ``term`` or ``kill``."""
        self.ahead_of: str | None = None
        """The key of the live template of which it waits as a clone; for the pool."""
        self.is_pooled = False
        """True while it is the pool's; for the harness."""
        self.from_pool = False
        """True where its first run was prepared before it was asked for."""
        self.cold_because: str | None = None
        """Why it booted and was no clone; None before it was started, and for a clone."""
        self._recorder = Recorder(name)
        self._plan = blueprint.plan()
        self._services = services
        self._images = images
        self._memory = memory
        """The file that its memory is to be in; None: what QEMU allocates, or a live template's."""
        self._uses = Uses(name, services.provisioner.sources)
        self._caches = Caches(services.provisioner)
        self._run_dir = services.root / name
        self._live: Live | None = None
        self._last: Live | None = None
        self._prepared = ExitStack()
        self._is_prepared = False
        self._is_deleted = False
        self._is_given_up = False
        self._identity: tuple[str, Identity] | None = None
        """Of one that waits as a clone: the boot that was saved, and who its guest is to be."""
        self._earlier_panic: str | None = None
        self._changing = threading.Lock()
        self._looking = threading.Lock()

    def __repr__(self) -> str:
        return f"<VM {self.name!r}: {self.spec}; recorded {self._recorder.record.state}>"

    @property
    def record(self) -> VMRecord:
        """What the harness believes; an end that came in order has been noted in it."""
        with self._looking:
            if self._changing.acquire(blocking=False):
                try:
                    self._settle()
                finally:
                    self._changing.release()
        return self._recorder.record

    @property
    def plan(self) -> MachinePlan:
        """What was decided before anything was done."""
        return self._plan

    @property
    def started_as(self) -> str | None:
        """How the present run, or the last one, came up: ``clone`` or ``cold``; None before the first."""
        if self._last is None:
            return None
        plan = self._last.plan
        return "clone" if plan.memory == "clone" or plan.waits else "cold"

    @property
    def argv(self) -> tuple[str, ...]:
        """QEMU's command line: as started, or as planned where it was not."""
        return self._last.process.argv if self._last else self._plan.argv

    @property
    def run_dir(self) -> Path:
        """The VM's own directory: its log, the console's log, its disks."""
        return self._run_dir

    @property
    def monitor_path(self) -> Path:
        """The unix socket of its second monitor, for other processes; it exists while the VM runs."""
        return Path(self._plan.monitor)

    @property
    def nics(self) -> tuple[PlannedNic, ...]:
        """Its network interfaces; ``.mac`` is the address of each."""
        return self._plan.nics

    @property
    def ip(self) -> str:
        """Its address in the first of its networks that gave it one. Raises NotConnected where none did."""
        for nic in self.nics:
            if nic.ip is not None:
                return nic.ip
        raise NotConnected(
            f"VM {self.name!r} has no address in a network of the test",
            hint="connect it to one: vm_factory(nics=[network_factory()])",
        )

    @property
    def state(self) -> str:
        """The state as observed now.

        ``stopped``, ``running``, ``paused``, or what else QEMU says: ``io-error``, ``guest-panicked``,
        ``shutdown``.
        """
        live = self._live
        if live is None or not live.alive:
            return "stopped"
        try:
            status = live.qmp.execute("query-status")["status"]
        except QmpDisconnected:
            return "stopped"
        if status == "guest-panicked":
            live.panic_seen = True
        return "paused" if status in _AT_REST else str(status)

    @property
    def pid(self) -> int | None:
        """QEMU's process id, or None when it does not run."""
        live = self._live
        return live.process.pid if live is not None and live.alive else None

    @property
    def identity(self) -> tuple[int, float] | None:
        """(pid, start time in seconds since the epoch): unlike a pid it never names another process."""
        live = self._live
        return live.process.identity if live is not None and live.alive else None

    @property
    def qmp(self) -> Qmp:
        """The monitor. Raises NotRunning where the VM was never started or was stopped.

        Of a QEMU that ended by itself or was killed from outside, the monitor says so: QmpDisconnected, with
        exit status and log.
        """
        # Not only while it lives: else a test would see one error or the other, by who is faster.
        return self._live.tests_qmp if self._live is not None else self._running().tests_qmp

    @property
    def monitor(self) -> Qmp:
        """The harness's own face of the monitor; for the harness. Raises as ``qmp`` does."""
        return self._live.qmp if self._live is not None else self._running().qmp

    @property
    def console(self) -> Console:
        """The serial console of this run, or of the last one.

        Raises NotRunning before the first start, and NotSupportedInDryRun where a guest would write to it.
        """
        if self._last is None:
            raise NotRunning(f"VM {self.name!r} has never been started")
        self.require_guest(f"console of VM {self.name!r}")
        return self._last.console

    @property
    def console_log(self) -> Console | None:
        """The console of this run or of the last one, whatever it is worth; for reports."""
        return self._last.console if self._last is not None else None

    def require_guest(self, what: str) -> None:
        """Raise NotSupportedInDryRun where nothing runs in the machine, and in a real one something would."""
        if self._plan.boot != "none":
            self._services.provisioner.executables.require_guest(what)

    @property
    def log(self) -> str:
        """The end of what QEMU wrote to its log in this run or the last one."""
        return self._last.process.log_tail() if self._last else ""

    @property
    def has_guest(self) -> bool:
        """True while there is a guest to be asked; for the harness."""
        return self._live is not None and self._live.channel is not None

    @property
    def live(self) -> Live | None:
        """What exists while it runs; for the harness."""
        return self._live

    @property
    def is_changing(self) -> bool:
        """True while somebody changes its state, or what is plugged into it."""
        live = self._live
        return self._changing.locked() or (live is not None and live.hotplug.busy)

    @property
    def unseen_panic(self) -> str | None:
        """The console's end, where its guest panicked, in this run or an earlier one, and nobody looked."""
        return self._earlier_panic or (self._last.unseen_panic if self._last is not None else None)

    def transcript(self) -> list[str]:
        """Return the last QMP exchanges of this run or the last one, one line each."""
        return self._last.qmp.transcript() if self._last else []

    # How it keeps itself in order

    def _settle(self) -> None:
        """Take note of what came in order: the guest switched itself off, or a test sent quit, stop, cont."""
        live = self._live
        if live is None:
            return
        if live.alive:
            self._recorder.follow(live)
        elif live.ended_in_order():
            self.stopped_by = live.stopped_by or "quit"
            self._reap()
            self._recorder.stopped()

    def _running(self) -> Live:
        live = self._live
        if live is None or not live.alive:
            if live is not None:
                how = f"QEMU ended with status {live.process.status()}\n{live.process.log_tail()}".rstrip()
            else:
                how = f"stopped by {self.stopped_by}" if self.stopped_by else ""
            raise NotRunning(f"VM {self.name!r} is not running", how)
        return live

    def _end(self, live: Live, first: StopStep) -> None:
        """Stop QEMU beginning at that step, and let go of all that belonged to the run."""
        try:
            self.stopped_by = live.stop(first)
        finally:
            self._reap()
            self._recorder.stopped()

    def _reap(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.close()
