"""The warm pool: clones prepared while a test runs, for the tests that come and want the same.

A VM of the pool is a VM of the session with an owner of its own, so that whoever accounts for machines
accounts for it. It waits paused, with its guest renewed and a command run, and goes to whoever asks for an
equal one without a name.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from pytest_qemuvm.errors import QemuVMWarning, SpecError
from pytest_qemuvm.host.idle import has_spare_processor

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_qemuvm.machine.clones import LiveTemplates
    from pytest_qemuvm.machine.template import Template
    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.spec.vm import VMSpec

POOL = "the pool"
"""The owner of VMs that nobody has asked for yet."""
CLEAR_SECONDS = 60.0
"""How long an emptying may take, one preparation included."""


class Session(Protocol):
    """What a pool needs of its session."""

    def make_vm(self, name: str | None, spec: VMSpec, template: Template, owner: str) -> VM:
        """Make a VM."""


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What the last test got, which the next is likely to want; compared by what is in it."""

    spec: VMSpec
    template: Template
    around: object = None
    """What its networks are like."""

    def fits(self, spec: VMSpec, template: Template, around: object = None) -> bool:
        """Return whether it is the same: of equal spec, of that very template, in networks like these."""
        return self.template is template and (self.spec, self.around) == (spec, around)


class Pool:
    """VMs that are ready before they are asked for, up to ``size``, and the thread that prepares them."""

    def __init__(self, size: int, session: Session, templates: LiveTemplates) -> None:
        self.size = size
        self.still = threading.RLock()
        """Held while VMs of the pool go; whoever compares machines with records holds it meanwhile."""
        self._session = session
        self._templates = templates
        self.spare: Callable[[Callable[[float], object]], bool] = has_spare_processor
        """Return whether a processor is idle, by the time that a call of what it is given takes."""
        self._changed = threading.Condition()
        self._wanted: Wanted | None = None
        self._given_up: Wanted | None = None
        """What could not be prepared; it is not tried again."""
        self._ready: list[VM] = []
        self._leaving: list[VM] = []
        self._preparing: VM | None = None
        self._is_busy = False
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._troubles: list[str] = []

    def take(self, spec: VMSpec, template: Template, suits: Callable[[str], bool]) -> VM | None:
        """Return a VM that only has to go on, which is the caller's now; None where there is none.

        ``suits`` says by its name whether one can be where it is wanted.
        """
        self._tell()
        taken = None
        with self._changed:
            for vm in list(self._ready):
                if not Wanted(vm.spec, vm.blueprint.template).fits(spec, template) or not suits(vm.name):
                    continue
                self._ready.remove(vm)
                if self._is_good(vm):
                    taken = vm
                    break
                self._leaving.append(vm)
                self._changed.notify_all()
        if taken is None:  # a warning may be an error, and what was taken must not get lost by it
            self._tell()
        return taken

    def let_go(self, vm: VM) -> None:
        """Let a VM go that was taken, and is of no use after all."""
        with self._changed:
            self._leaving.append(vm)
            self._changed.notify_all()

    def want(self, vm: VM, around: object = None) -> None:
        """Have more of a VM that has just been started, if it can be had ahead; nothing else from now on.

        ``around`` is what its networks are like; with others, what is ready is of no use.
        """
        if self.size == 0 or vm.started_as != "clone":
            return
        if any(disk.path is not None for disk in vm.blueprint.spec.disks):
            return  # a QEMU that waits would hold a lock on an image of the user's
        template = vm.blueprint.template
        with self._changed:
            if self._wanted is None or not self._wanted.fits(vm.spec, template, around):
                self._drop()
                self._wanted = Wanted(vm.spec, template, around)
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._work, name="qemuvm-pool", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def forget(self, template: Template) -> None:
        """Let the VMs of a template go that is being deleted."""
        with self._changed:
            if self._wanted is not None and self._wanted.template is template:
                self._drop()

    def clear(self) -> None:
        """Let all VMs go, and return when they have gone."""
        with self._changed:
            self._drop()
            self._changed.wait_for(lambda: not (self._leaving or self._is_busy), CLEAR_SECONDS)

    def settle(self, timeout: float) -> bool:
        """Wait until it holds what it can; return whether it came to that within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._has_work() or self._is_busy), timeout)

    def close(self) -> None:
        """End the thread, what it is preparing, and all VMs. Idempotent.

        Raises an ExceptionGroup of what went wrong, after everything has been tried.
        """
        with self._changed:
            self._is_closed = True
            preparing, thread = self._preparing, self._thread
            self._drop()
            self._changed.notify_all()
        if preparing is not None:
            preparing.give_up()
        if thread is not None:
            thread.join()
        errors: list[Exception] = []
        steps: list[Callable[[], None]] = [partial(self._remove, vm) for vm in self._leaving]
        for step in (*steps, self._tell):
            try:
                step()
            except Exception as error:  # noqa: BLE001  # all of them are reported
                errors.append(error)
        self._leaving = []
        if errors:
            raise ExceptionGroup("the pool could not be ended in order", errors)

    # On the caller's thread, with the lock held where nothing else is said

    def _drop(self) -> None:
        self._leaving += self._ready
        self._ready, self._wanted = [], None
        self._changed.notify_all()

    def _is_good(self, vm: VM) -> bool:
        """Return whether a VM still is what is wanted: alive, and of a template that has not changed."""
        if vm.identity is None:
            if vm.record.state != "stopped":  # else a check has found it, and told
                log = vm.log.strip() or "(nothing)"
                self._troubles.append(
                    f"VM {vm.name!r} was ended from outside while it waited in the pool; its log says: {log}"
                )
            return False
        try:
            return vm.ahead_of == self._templates.key_of(vm.blueprint)
        except (SpecError, OSError):  # whoever makes the VM instead says it
            return False

    def _tell(self) -> None:
        """Warn of what went wrong, once, on a thread whose warnings somebody reads; without the lock."""
        with self._changed:
            troubles, self._troubles = self._troubles, []
        for trouble in troubles:
            warnings.warn(QemuVMWarning(trouble), stacklevel=3)

    def _has_work(self) -> bool:
        return bool(self._is_closed or self._leaving or self._lacks())

    def _lacks(self) -> Wanted | None:
        wanted = self._wanted
        lacking = len(self._ready) < self.size and wanted is not self._given_up
        return wanted if lacking else None

    # On the thread of its own

    def _work(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                self._changed.wait_for(self._has_work)
                if self._is_closed:
                    return
                self._is_busy = True
                leaving, self._leaving = self._leaving, []
                wanted = self._lacks()
            try:
                for vm in leaving:
                    self._remove(vm)
                if wanted is not None and self.spare(self._pause):
                    self._prepare(wanted)
            except Exception as error:  # noqa: BLE001  # told to the next who asks, and not tried again
                with self._changed:
                    if not self._is_closed:
                        self._given_up = wanted
                        self._troubles.append(
                            f"the pool could not prepare or remove a VM: {type(error).__name__}: {error}"
                        )

    def _pause(self, seconds: float) -> None:
        """Let time pass, unless there is something better to do."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._leaving, seconds)

    def _prepare(self, wanted: Wanted) -> None:
        vm = self._session.make_vm(None, wanted.spec, wanted.template, POOL)
        with self._changed:
            self._preparing = vm
            closed = self._is_closed
        done = False
        try:
            done = not closed and vm.start_ahead()
        finally:
            with self._changed:
                self._preparing = None
                is_wanted = done and self._wanted is wanted and not self._is_closed
                (self._ready if is_wanted else self._leaving).append(vm)
                if not done and self._wanted is wanted:
                    self._wanted = None  # until somebody wants it again

    def _remove(self, vm: VM) -> None:
        with self.still:
            vm.delete()
