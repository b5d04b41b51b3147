"""How a VM comes up: by booting, or as a clone of a machine that has booted."""

from __future__ import annotations

import warnings
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import NotRunning, QemuVMError, QemuVMWarning
from pytest_qemuvm.guest.agent import Address, Identity
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.faults.layers import Layers
from pytest_qemuvm.machine.hotplug import HotPlug
from pytest_qemuvm.machine.live import WAKE_SECONDS, Live
from pytest_qemuvm.machine.observed import Observed
from pytest_qemuvm.machine.pool import POOL
from pytest_qemuvm.machine.saving import WARM_UP, load_state
from pytest_qemuvm.machine.snapshots import Snapshots
from pytest_qemuvm.machine.uses import LAUNCH, image_of
from pytest_qemuvm.plan import RAM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_qemuvm.host.memory import MemoryFile
    from pytest_qemuvm.machine.clones import Clone
    from pytest_qemuvm.plan import MachinePlan


@dataclass(frozen=True, slots=True)
class Moment:
    """What a machine is to go on from, that another has left."""

    plan: MachinePlan
    state: MemoryFile
    """The state of its devices, and its memory."""
    boot_id: str
    """The guest's boot; empty where there is nobody to ask."""
    addresses: dict[str, Address]
    """MAC addresses of the other machine's NICs, and what these are to have."""
    console: str
    """What the other's console has said."""


class Starting(Observed):
    """The beginnings of a VM's runs."""

    def prepare_as(self, plan: MachinePlan) -> None:
        """Make the files of a VM that goes on from another's state, of which nobody writes to a disk now."""
        self._plan = plan
        asked_for = {device.id for device in self.blueprint.plan().devices}
        added = [device for device in plan.devices if device.id not in asked_for]
        self._images = (*self._images, *(image for device in added for image in image_of(device.spec)))
        self._prepare()

    def go_on(self, moment: Moment) -> None:
        """Start it with the state of another. Raises GuestBootError, QemuVMError where it cannot load it."""
        self._start_loaded({}, moment)

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

    def _wake(self, clone: Clone) -> Live:
        """Start it with the memory of a live template, in which setups have been done."""
        self._plan = replace(clone.plan, booting=self._plan.booting or self._plan)
        self._prepare()
        save = clone.save
        manifest = save.save.manifest
        own = (Address(nic.mac, nic.link) for nic in clone.plan.nics)
        addresses = dict(zip(manifest.macs, own, strict=True))
        moment = Moment(clone.plan, save.state, manifest.boot_id, addresses, save.console)
        return self._start_loaded({RAM: save.ram.fileno()}, moment)

    def _start_loaded(self, files: Mapping[str, int], moment: Moment) -> Live:
        """Start it, and have it go on from a moment that was saved."""
        # What the console said before is the beginning of what it says.
        Path(moment.plan.console_log).write_text(moment.console, encoding="utf-8")
        live = self._launch(files, moment.console)
        try:
            self._check_wanted()
            load_state(live, moment.state, whole=moment.plan.waits)
            live.await_clone(moment.boot_id, Identity(self.name, moment.addresses))
            live.hotplug.settled(moment.boot_id)
        except BaseException:
            self._end(live, "quit")
            raise
        return live

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
            live = self._wake(clone)
            boot = clone.save.save.manifest.boot_id
        try:
            assert live.channel is not None
            live.channel.run(WARM_UP, deadline=Deadline.after(WAKE_SECONDS))
            live.qmp.execute("stop")
        except BaseException:
            self._end(live, "quit")
            raise
        self._recorder.switched(live, "paused")
        self._identity, self.ahead_of = (boot, Identity(self.name)), clone.key
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
        self._caches.begin(self._plan.caches)
        with ExitStack() as handed_over:
            ends = services.networks.descriptors(self.name, self._plan, handed_over)
            live = Live.launch(
                self._plan,
                services.provisioner,
                services.loop,
                self._run_dir,
                warden,
                {**files, **ends},
                history,
            )
        live.on_close(self._uses.end_plugged)
        live.on_close(partial(services.faults.forget, live))
        live.on_death(partial(services.networks.run_ended, self.name))
        live.hotplug = HotPlug(live, services, self._run_dir, services.kinds, self._uses)
        live.snapshots = Snapshots(live, self._run_dir, services.provisioner)
        live.layers = Layers(live)
        self._live = self._last = live
        self._recorder.started(live)
        services.faults.forget(self)  # what it had while it did not run
        services.registry.vm_started(self)
        return live

    def _acting(self) -> str:
        """Return on whose behalf something is done with it now."""
        return POOL if self.is_pooled else self._services.acting()

    def _set_up(self) -> None:
        """Do what the template wants done after each boot: nothing of it would have outlived the last one."""
        for setup in self.blueprint.template.setups:
            setup(self)
