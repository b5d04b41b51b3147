"""How a VM comes up: by booting, or as a clone of a machine that has booted."""

from __future__ import annotations

import warnings
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import NotRunning, QemuVMError, QemuVMWarning
from pytest_qemuvm.guest.agent import Identity
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.hotplug import HotPlug
from pytest_qemuvm.machine.live import WAKE_SECONDS, Live
from pytest_qemuvm.machine.observed import Observed
from pytest_qemuvm.machine.pool import POOL
from pytest_qemuvm.machine.saving import WARM_UP, load_state
from pytest_qemuvm.machine.uses import LAUNCH
from pytest_qemuvm.plan import RAM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_qemuvm.machine.clones import Clone


class Starting(Observed):
    """The beginnings of a VM's runs."""

    def _start(self) -> None:
        if self._identity is not None and self._go_on(*self._identity):
            return
        self._reap()
        self._earlier_panic = self.unseen_panic
        services = self._services
        self.stopped_by = None
        if self._is_prepared or self._memory is not None:
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

    def _wake(self, clone: Clone) -> tuple[Live, str, Identity]:
        """Start it with the memory of a live template, in which setups have been done.

        Returns what runs then, the boot that was saved, and who its guest is now.
        """
        self._plan = clone.plan
        self._prepare()
        save = clone.save
        # What the console said before is the beginning of what it says.
        Path(clone.plan.console_log).write_text(save.console, encoding="utf-8")
        live = self._launch({RAM: save.ram.fileno()}, save.console)
        try:
            self._check_wanted()
            load_state(live, save.state)
            manifest = save.save.manifest
            addresses = zip(manifest.macs, (nic.mac for nic in clone.plan.nics), strict=True)
            identity = Identity(self.name, dict(addresses))
            live.await_clone(manifest.boot_id, identity)
            live.hotplug.settled(manifest.boot_id)
        except BaseException:
            self._end(live, "quit")
            raise
        return live, manifest.boot_id, identity

    def _check_wanted(self) -> None:
        # After the launch: whoever gives it up before has no process to end.
        if self._is_given_up:
            raise NotRunning(f"VM {self.name!r} is not wanted any more")

    def _wake_ahead(self) -> bool:
        """Start it as a clone and have it wait; return whether its live template was there to be used.

        Most of a clone's first command is the translation of the guest's code under emulation, so it has
        one run already.
        """
        clone = self._services.live_templates.loaded_clone(self.blueprint)
        if clone is None:
            return False
        with closing(clone.save):
            live, boot, identity = self._wake(clone)
        try:
            assert live.channel is not None
            live.channel.run(WARM_UP, deadline=Deadline.after(WAKE_SECONDS))
            live.qmp.execute("stop")
        except BaseException:
            self._end(live, "quit")
            raise
        self._recorder.switched(live, "paused")
        self._identity, self.ahead_of = (boot, identity), clone.key
        return True

    def _go_on(self, boot: str, identity: Identity) -> bool:
        """Let it go on from where it waits; return whether it could, else nothing of it is left.

        Its guest gets the time, and entropy that nobody had while it waited.
        """
        self._identity = self.ahead_of = None
        live = self._live
        assert live is not None
        try:
            live.await_clone(boot, identity)
        except QemuVMError as error:
            self._end(live, "quit")
            self._prepared.close()
            self._is_prepared = False
            brief = f"VM {self.name!r} could not go on from the pool and starts anew: {error.brief}"
            warnings.warn(QemuVMWarning(brief), stacklevel=2)
            return False
        except BaseException:
            self._end(live, "quit")
            raise
        self._recorder.switched(live, "running")
        self.from_pool = True
        self._services.live_templates.count_pooled()
        return True

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
        warden.devices = services.catalogue.devices
        warden.nodeid = self._acting
        live = Live.launch(
            self._plan, services.provisioner, services.loop, self._run_dir, warden, files, history
        )
        live.on_close(self._uses.end_plugged)
        live.hotplug = HotPlug(live, services, self._run_dir, services.kinds, self._uses)
        self._live = self._last = live
        self._recorder.started(live)
        services.registry.vm_started(self)
        return live

    def _acting(self) -> str:
        """Return on whose behalf something is done with it now."""
        return POOL if self.is_pooled else self._services.acting()

    def _set_up(self) -> None:
        """Do what the template wants done after each boot: nothing of it would have outlived the last one."""
        for setup in self.blueprint.template.setups:
            setup(self)
