"""The life of a VM: started, stopped, deleted, one change at a time."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import AlreadyRunning, SpecError, VMStateError
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.caches import checked_cut
from pytest_qemuvm.machine.live import WAKE_SECONDS
from pytest_qemuvm.machine.starting import Starting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_qemuvm.host.write_log import Keep
    from pytest_qemuvm.machine.caches import PowerCut
    from pytest_qemuvm.machine.live import Live

STOP_SECONDS = 20.0


class Lifecycle(Starting):
    """How a VM comes and goes."""

    def start(self) -> None:
        """Start it and wait until it is ready: the monitor answers and, where there is a guest, the guest.

        Raises AlreadyRunning, LaunchError, GuestBootError, and VMStateError where its process was ended
        behind our back (``restart`` is the way out then).
        """
        with self._change("start"):
            if self._live is not None and self._identity is None:
                if self._live.alive:
                    raise AlreadyRunning(f"VM {self.name!r} is running", f"pid {self._live.process.pid}")
                if self._recorder.record.state != "stopped":
                    raise VMStateError(
                        f"the process of VM {self.name!r} was ended from outside",
                        f"exit status {self._live.process.status()}",
                        "use restart() or delete()",
                    )
            self._start()

    def start_ahead(self) -> bool:
        """Start it as a clone and have it wait, so that ``start`` only lets it go on; for the pool.

        Returns False, with nothing started, where its live template is not in memory.
        """
        with self._change("start"):
            return self._wake_ahead()

    def give_up(self) -> None:
        """Have ``start_ahead``, on another thread, fail soon: nobody wants the VM any more; for the pool."""
        self._is_given_up = True
        live = self._live
        if live is not None:
            live.process.kill()

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

    def cut_power(self, keep: Keep, seed: int | None) -> PowerCut:
        """Cut its power; see ``vm.faults.power_cut``."""
        keep, seed = checked_cut(keep, seed)
        with self._change("cut the power of"):
            live = self._running()
            if not live.plan.caches:
                raise SpecError(
                    f"no disk of VM {self.name!r} has a volatile cache: a power cut would lose nothing",
                    hint="DiskSpec(..., volatile_cache=True) has one; kill() ends QEMU at once",
                )
            live.sever()
            self._end(live, "kill")
            return self._caches.cut(live.plan.caches, keep, seed)

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
            self._press_reset(live)
            self._come_up_again(live)

    def pause(self) -> None:
        """Stop its processors. Raises NotRunning, and VMStateError unless it is running."""
        with self._change("pause"):
            self._switch("stop", "STOP", "running", "paused")

    def resume(self) -> None:
        """Let its processors run on. Raises NotRunning, and VMStateError unless it is paused."""
        with self._change("resume"):
            self._resume()

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
                stack.callback(self._services.faults.forget, self)
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

    def reconcile(self) -> None:
        """Make the record say what is the case, whoever falsified it."""
        with self._change("reconcile"):
            self._earlier_panic = None
            if self._live is not None and self._live.alive:
                self._recorder.switched(self._live, "paused" if self.state == "paused" else "running")
            else:
                self._reap()
                self._recorder.stopped()

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

    def _press_reset(self, live: Live) -> None:
        """Reset the machine, and return when QEMU says that it has been."""
        live.hotplug.processors.check_sound("be reset")
        self._expect_reboot(live)
        live.execute_until("system_reset", "RESET")

    def _expect_reboot(self, live: Live) -> None:
        """Note that the present boot of the guest is about to end."""
        live.leaving = live.channel.boot_id if live.channel is not None else None
        live.ready = False

    def _come_up_again(self, live: Live) -> None:
        """Wait until a guest that was reset is up again; where it is, nothing is done."""
        if not live.ready:
            live.await_guest(Deadline.after(self.spec.boot_timeout), after_boot=live.leaving)
            self._set_up()

    def _resume(self) -> None:
        self._switch("cont", "RESUME", "paused", "running")
        live = self._running()
        if live.renewal_due:
            live.renew(Deadline.after(WAKE_SECONDS))

    def _switch(self, command: str, event: str, before: str, after: str) -> None:
        live = self._running()
        state = self.state
        if state != before:
            raise VMStateError(f"VM {self.name!r} is {state}, not {before}")
        live.execute_until(command, event)
        self._recorder.switched(live, after)
