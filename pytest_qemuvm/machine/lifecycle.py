"""The life of a VM: started, stopped, observed; and a record that says what the harness believes."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import AlreadyRunning, NotRunning, QemuVMError, QmpDisconnected, VMStateError
from pytest_qemuvm.guest.agent import Identity
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.hotplug import HotPlug
from pytest_qemuvm.machine.live import Live, StopStep
from pytest_qemuvm.machine.record import Recorder
from pytest_qemuvm.machine.saving import load_state
from pytest_qemuvm.machine.uses import LAUNCH, Uses
from pytest_qemuvm.plan.model import RAM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_qemuvm.devices.place import Image
    from pytest_qemuvm.guest.console import Console
    from pytest_qemuvm.host.memory import MemoryFile
    from pytest_qemuvm.machine.clones import Blueprint, Clone
    from pytest_qemuvm.machine.record import VMRecord
    from pytest_qemuvm.machine.services import Services
    from pytest_qemuvm.plan import MachinePlan, PlannedNic
    from pytest_qemuvm.qmp import Qmp
    from pytest_qemuvm.spec.vm import VMSpec

STOP_SECONDS = 20.0


class Lifecycle:
    """What a VM is and how it comes and goes.

    ``state`` is observed each time it is asked for; ``record`` is what the harness believes.
    """

    def __init__(
        self,
        name: str,
        spec: VMSpec,
        plan: MachinePlan,
        services: Services,
        setups: Sequence[Callable[[Any], object]] = (),
        images: Sequence[Image] = (),
        blueprint: Blueprint | None = None,
        memory: MemoryFile | None = None,
    ) -> None:
        self.name = name
        self.spec = spec
        self._recorder = Recorder(name)
        self.stopped_by: StopStep | None = None
        """What ended the last run: ``powerdown``, ``quit``, ``term`` or ``kill``."""
        self._plan = plan
        self._services = services
        self._setups = setups
        self._images = images
        self._blueprint = blueprint
        self._memory = memory
        """The file that its memory is to be in; None: what QEMU allocates, or a live template's."""
        self.cold_because: str | None = None
        """Why it booted and was no clone; None before it was started, and for a clone."""
        self._uses = Uses(name, services.provisioner.sources)
        self._run_dir = services.root / name
        self._live: Live | None = None
        self._last: Live | None = None
        self._prepared = ExitStack()
        self._is_prepared = False
        self._is_deleted = False
        self._earlier_panic: str | None = None
        self._changing = threading.Lock()
        self._looking = threading.Lock()

    def __repr__(self) -> str:
        return f"<VM {self.name!r}: {self.spec}; recorded {self._recorder.record.state}>"

    # What it is

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
    def blueprint(self) -> Blueprint:
        """What it is planned from; for the harness."""
        assert self._blueprint is not None
        return self._blueprint

    @property
    def started_as(self) -> str | None:
        """How the present run, or the last one, came up: ``clone`` or ``cold``; None before the first."""
        if self._last is None:
            return None
        return "clone" if self._last.plan.memory == "clone" else "cold"

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
        return "paused" if status == "prelaunch" else str(status)

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
        """The serial console of this run, or of the last one. Raises NotRunning before the first start."""
        if self._last is None:
            raise NotRunning(f"VM {self.name!r} has never been started")
        return self._last.console

    @property
    def log(self) -> str:
        """The end of what QEMU wrote to its log in this run or the last one."""
        return self._last.process.log_tail() if self._last else ""

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

    def reconcile(self) -> None:
        """Make the record say what is the case, whoever falsified it."""
        with self._change("reconcile"):
            self._earlier_panic = None
            if self._live is not None and self._live.alive:
                self._recorder.switched(self._live, "paused" if self.state == "paused" else "running")
            else:
                self._reap()
                self._recorder.stopped()

    def transcript(self) -> list[str]:
        """Return the last QMP exchanges of this run or the last one, one line each."""
        return self._last.qmp.transcript() if self._last else []

    # Its life

    def start(self) -> None:
        """Start it and wait until it is ready: the monitor answers and, where there is a guest, the guest.

        Raises AlreadyRunning, LaunchError, GuestBootError, and VMStateError where its process was ended
        behind our back (``restart`` is the way out then).
        """
        with self._change("start"):
            if self._live is not None:
                if self._live.alive:
                    raise AlreadyRunning(f"VM {self.name!r} is running", f"pid {self._live.process.pid}")
                if self._recorder.record.state != "stopped":
                    raise VMStateError(
                        f"the process of VM {self.name!r} was ended from outside",
                        f"exit status {self._live.process.status()}",
                        "use restart() or delete()",
                    )
            self._start()

    def _start(self) -> None:
        self._reap()
        self._earlier_panic = self.unseen_panic
        services = self._services
        self.stopped_by = None
        if self._is_prepared or self._memory is not None or self._blueprint is None:
            # What was there before has a disk to go on from, and no memory.
            self._plan = self._plan.booting or self._plan
            self._boot()
            return
        clone = services.live_templates.clone_for(self)
        if clone is None:
            self._boot()
            return
        try:
            self._wake(clone)
        except QemuVMError as error:
            self._prepared.close()
            self._is_prepared = False
            self._wake(services.live_templates.again(self, clone, error))

    def _boot(self) -> None:
        """Start it with nothing in its memory."""
        self._prepare()
        deadline = Deadline.after(self.spec.boot_timeout)
        live = self._launch({} if self._memory is None else {RAM: self._memory.fileno()})
        try:
            live.await_guest(deadline)
            self._set_up()
        except BaseException:
            self._end(live, "quit")
            raise

    def _wake(self, clone: Clone) -> None:
        """Start it with the memory of a live template, in which setups have been done."""
        self._plan = clone.plan
        self._prepare()
        save = clone.save
        # What the console said before is the beginning of what it says.
        Path(clone.plan.console_log).write_text(save.console, encoding="utf-8")
        live = self._launch({RAM: save.ram.fileno()}, save.console)
        try:
            load_state(live, save.state)
            manifest = save.save.manifest
            addresses = zip(manifest.macs, (nic.mac for nic in clone.plan.nics), strict=True)
            live.await_clone(manifest.boot_id, Identity(self.name, dict(addresses)))
            live.hotplug.settled(manifest.boot_id)
        except BaseException:
            self._end(live, "quit")
            raise

    def _prepare(self) -> None:
        """Make its files, once."""
        if self._is_prepared:
            return
        self._uses.begin(LAUNCH, self._images)
        with ExitStack() as stack:
            self._services.provisioner.prepare(self._plan, self._run_dir, stack)
            self._prepared = stack.pop_all()
        self._is_prepared = True

    def _launch(self, files: Mapping[str, int], history: str = "") -> Live:
        services = self._services
        warden = services.wardens.of(self.name)
        live = Live.launch(
            self._plan, services.provisioner, services.loop, self._run_dir, warden, files, history
        )
        warden.check_device = partial(services.catalogue.check_arguments, live.qmp)
        live.on_close(self._uses.end_plugged)
        live.hotplug = HotPlug(live, services, self._run_dir, services.kinds, self._uses)
        self._live = self._last = live
        self._recorder.started(live)
        services.registry.vm_started(self)
        return live

    def _set_up(self) -> None:
        """Do what the template wants done after each boot: nothing of it would have outlived the last one."""
        for setup in self._setups:
            setup(self)

    def stop(self, *, graceful: bool = True) -> None:
        """Stop it: ask the guest to power down, then QEMU to quit, then SIGTERM, then SIGKILL.

        Each step has its own time and the next is taken only if it fails; ``stopped_by`` tells which worked.
        Without a guest that could answer, or with ``graceful=False``, it begins at quit. Raises NotRunning.
        """
        with self._change("stop"):
            live = self._running()
            self._end(live, live.gentlest_step() if graceful else "quit")

    def kill(self) -> None:
        """End QEMU by SIGKILL, as a power cut would. Raises NotRunning."""
        with self._change("kill"):
            self._end(self._running(), "kill")

    def restart(self) -> None:
        """Stop it, if it runs, and start it anew with the same disks; valid after a kill from outside."""
        with self._change("restart"):
            if self._live is not None and self._live.alive:
                self._end(self._live, self._live.gentlest_step())
            self._start()

    def reset(self) -> None:
        """Reset it as its reset button would, and wait until the guest is up again.

        Raises NotRunning, and VMStateError where the guest could not come up: it is paused, or panicked.
        """
        with self._change("reset"):
            live = self._running()
            if live.plan.guest:
                live.check_running()
            deadline = Deadline.after(self.spec.boot_timeout)
            boot = live.channel.boot_id if live.channel is not None else None
            since = live.qmp.events.last
            live.ready = False
            live.qmp.execute("system_reset", timeout=deadline)
            live.qmp.wait_event("RESET", since=since, timeout=deadline)
            live.await_guest(deadline, after_boot=boot)
            self._set_up()

    def pause(self) -> None:
        """Stop its processors. Raises NotRunning, and VMStateError unless it is running."""
        with self._change("pause"):
            self._switch("stop", "STOP", "running", "paused")

    def resume(self) -> None:
        """Let its processors run on. Raises NotRunning, and VMStateError unless it is paused."""
        with self._change("resume"):
            self._switch("cont", "RESUME", "paused", "running")

    def delete(self) -> None:
        """Stop it, if it runs, and remove it with all its files; its name is free again. Idempotent.

        Raises ImageModified, after it is gone, where images of yours that it used are not what they were.
        """
        with self._change("delete", patience=self.spec.boot_timeout + STOP_SECONDS):
            # Whatever goes wrong: nobody looks after it any more, so it must not come back to life.
            self._is_deleted = True
            with ExitStack() as stack:
                stack.callback(self._services.registry.vm_deleted, self)
                stack.callback(self._prepared.close)
                if self._live is not None:
                    self._end(self._live, "quit")
            self._uses.end_all()
            self._uses.check()

    def wait_stopped(self, timeout: float = STOP_SECONDS) -> None:
        """Wait until QEMU has ended, as after the guest switched itself off; ``timeout`` in seconds.

        Raises VMStateError where it still runs then.
        """
        live = self._live
        if live is not None and live.process.wait(Deadline.after(timeout)) is None:
            raise VMStateError(f"VM {self.name!r} still runs after {timeout:g} s", f"state: {self.state}")

    # How it keeps itself in order

    @contextmanager
    def _change(self, what: str, patience: float = 0.0) -> Iterator[None]:
        """Hold the right to change the VM's state.

        Whoever comes second is told, not queued; ``patience`` is how many seconds it may be queued all the
        same, for those who cannot do without.
        """
        # Whoever only looks at the record holds the right for a moment, and must not be taken for a change.
        with self._looking:
            taken = self._changing.acquire(blocking=False)
        if not taken and not self._changing.acquire(timeout=Deadline.after(patience).remaining):
            kind = AlreadyRunning if what == "start" else VMStateError
            raise kind(f"cannot {what} VM {self.name!r}: another thread is changing its state")
        try:
            if self._is_deleted and what != "delete":
                raise VMStateError(f"cannot {what} VM {self.name!r}: it has been deleted")
            self._settle()
            yield
        finally:
            self._changing.release()

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

    def _switch(self, command: str, event: str, before: str, after: str) -> None:
        live = self._running()
        state = self.state
        if state != before:
            raise VMStateError(f"VM {self.name!r} is {state}, not {before}")
        # A wait that names its start leaves the event to the test's own waits as well.
        since = live.qmp.events.last
        live.qmp.execute(command)
        live.qmp.wait_event(event, since=since)
        self._recorder.switched(live, after)
