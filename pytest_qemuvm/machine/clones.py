"""Live templates: which VM is a clone of which, and the making of those that are missing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_qemuvm.errors import QemuVMError, QemuVMWarning, SpecError
from pytest_qemuvm.host.memory import MemoryFile, copy_file
from pytest_qemuvm.host.saves import RAM_FILE, STATE_FILE, LoadedSave, Manifest, Save, SaveDamaged, SaveStore
from pytest_qemuvm.machine.saving import CannotSave, make_ready, save_state
from pytest_qemuvm.plan import ImagePlan, plan_machine
from pytest_qemuvm.plan.saving import shape_of, why_cold
from pytest_qemuvm.spec.fingerprint import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_qemuvm.machine.template import Template
    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.plan import MachinePlan, Surroundings
    from pytest_qemuvm.spec.vm import VMSpec

KEPT_LOADED = 4
"""How many saves stay in memory, each with what its guest had written there: some 100 MiB."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a VM is planned from."""

    template: Template
    spec: VMSpec
    """As it is planned: over the built-in template, with the template's image as a disk."""
    world: Surroundings

    def plan(self) -> MachinePlan:
        """Return the plan of a machine that boots."""
        return plan_machine(self.spec, self.world)


@dataclass(frozen=True, slots=True)
class Clone:
    """A way for a VM to start: as a clone of a live template."""

    key: str
    plan: MachinePlan
    save: LoadedSave


class Session(Protocol):
    """What the making of live templates needs of the session."""

    def make_vm(
        self, name: str, spec: VMSpec, template: Template, owner: str, *, memory: MemoryFile | None = None
    ) -> VM:
        """Make a VM, with its memory in that file."""


class LiveTemplates:
    """All live templates of a session."""

    def __init__(
        self,
        store: SaveStore,
        session: Session,
        host: dict[str, Any],
        wish: str,
        progress: Callable[[str], None],
    ) -> None:
        self.store = store
        self._session = session
        self._host = host
        self._wish = wish
        self._progress = progress
        self._loaded: dict[str, LoadedSave] = {}
        self._failed: set[str] = set()
        self._lock = threading.RLock()
        self.tally: dict[str, int] = {}
        """How VMs started: ``clone``, or why one booted; with how many did."""

    def clone_for(self, vm: VM) -> Clone | None:
        """Return how a VM is to start as a clone, its template made live if it is not; None where it boots.

        Raises SpecError where it must not boot and cannot be a clone.
        """
        wish = vm.spec.start or self._wish
        blueprint = vm.blueprint
        reason = (
            "start='cold'" if vm.spec.start == "cold" else "--qemu-start=cold" if wish == "cold" else None
        )
        reason = reason or self._why_cold(blueprint)
        clone: Clone | None = None
        if reason is None:
            try:
                clone = self._clone(blueprint)
            except _Refused as refused:
                reason = str(refused)
        if clone is None and wish == "clone":
            raise SpecError(f"VM {vm.name!r} cannot be a clone: {reason}", hint="start='auto' boots it then")
        vm.cold_because = reason
        with self._lock:
            word = "clone" if reason is None else reason
            self.tally[word] = self.tally.get(word, 0) + 1
        return clone

    def again(self, vm: VM, clone: Clone, error: QemuVMError) -> Clone:
        """Return another clone for a VM whose first did not come up: of a template made anew, and only once.

        Raises the error the second time.
        """
        with self._lock:
            if clone.key in self._failed:
                raise error
            self._failed.add(clone.key)
            self._let_go(clone.key)
        self.store.remove(clone.key)
        warnings.warn(
            QemuVMWarning(
                f"VM {vm.name!r} could not start as a clone, so its template is made anew: {error.brief}"
            ),
            stacklevel=2,
        )
        return self._clone(vm.blueprint)

    def close(self) -> None:
        """Let go of all that is loaded."""
        with self._lock:
            for key in list(self._loaded):
                self._let_go(key)

    def _let_go(self, key: str) -> None:
        loaded = self._loaded.pop(key, None)
        if loaded is not None:
            loaded.close()

    def _why_cold(self, blueprint: Blueprint) -> str | None:
        if not self._host:
            return "nothing runs in a dry-run"
        reason = why_cold(blueprint.spec, blueprint.plan())
        if reason is not None:
            return reason
        try:
            fingerprint(blueprint.template.setups)
        except SpecError as error:
            return error.brief
        return None

    def _clone(self, blueprint: Blueprint) -> Clone:
        key = self.key_of(blueprint)
        loaded = self._obtain(key, blueprint)
        world = replace(blueprint.world, memory="clone")
        plan = plan_machine(blueprint.spec, world)
        images = tuple(_over(image, loaded.save, index) for index, image in enumerate(plan.images))
        return Clone(key, replace(plan, images=images, booting=blueprint.plan()), loaded)

    def key_of(self, blueprint: Blueprint) -> str:
        """Return the name of the save that a VM would be a clone of: a digest of all that shapes it."""
        world = blueprint.world
        boot = world.boot
        files = [disk.path for disk in blueprint.spec.disks if disk.path is not None]
        content = {
            "machine": shape_of(blueprint.spec, world),
            "files": [_identity(path) for path in (*files, *((boot.kernel, boot.initrd) if boot else ()))],
            "setup": fingerprint(blueprint.template.setups),
            "host": self._host,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]

    def _obtain(self, key: str, blueprint: Blueprint) -> LoadedSave:
        """Return a save in memory: as it was, from the cache, or made now."""
        with self._lock:
            loaded = self._loaded.pop(key, None)
            if loaded is None:
                while len(self._loaded) >= KEPT_LOADED:
                    self._let_go(next(iter(self._loaded)))
                loaded = self._load(key, blueprint)
            self._loaded[key] = loaded  # the one used last is last
            return loaded

    def _load(self, key: str, blueprint: Blueprint) -> LoadedSave:
        save = self.store.find(key)
        if save is None:
            with self.store.turn(key, self._waiting):
                save = self.store.find(key)
                if save is None:
                    return self._make(key, blueprint)
        if save.manifest.refused is not None:
            raise _Refused(save.manifest.refused)
        try:
            return self.store.load(save)
        except SaveDamaged as error:
            warnings.warn(QemuVMWarning(f"{error.brief}; it is made anew"), stacklevel=2)
            with self.store.turn(key, self._waiting):
                return self._make(key, blueprint)

    def _waiting(self, holder: str) -> None:
        self._progress(f"waiting for the live template that {holder} is making")

    def _make(self, key: str, blueprint: Blueprint) -> LoadedSave:
        """Boot a machine, save it, and put it into the cache. The caller has the turn."""
        began = time.monotonic()
        template, spec = blueprint.template, blueprint.spec
        self._progress(f"making the live template of {template.name} ({spec})")
        ram, state = MemoryFile(RAM_FILE, spec.bytes), MemoryFile(STATE_FILE)
        what = f"{spec}; {len(spec.disks)} disks, {len(spec.nics)} NICs"
        try:
            vm = self._session.make_vm(
                f"live-{key[:12]}", _own_spec(blueprint), template, f"template {template.name}", memory=ram
            )
            with self.store.room(key) as work, contextlib.ExitStack() as stack:
                stack.callback(vm.delete)
                vm.start()
                live = vm.live
                assert live is not None and live.channel is not None
                from pytest_qemuvm.host.deadline import Deadline  # noqa: PLC0415

                make_ready(live, Deadline.after(spec.boot_timeout))
                written = _written_disks(vm)
                boot_id = live.channel.boot_id
                try:
                    save_state(live, state)
                except CannotSave as error:
                    reason = error.details or error.brief
                    self.store.publish(
                        work,
                        Manifest(key, template.name, what, time.time(), time.monotonic() - began, reason),
                    )
                    raise _Refused(reason) from error
                console = live.console.text
                vm.stop(graceful=False)
                ram.seal()
                state.seal()
                digests = {}
                for name, memory in ((RAM_FILE, ram), (STATE_FILE, state)):
                    digests[name] = _store(work / name, memory.fileno())
                disks = {}
                for index, image in written.items():
                    if image.format != "qcow2":
                        raise _Refused("a raw disk was written to before the machine was saved")
                    disks[str(index)] = name = f"disk{index}.qcow2"
                    with open(image.path, "rb") as file:
                        digests[name] = _store(work / name, file.fileno())
                (work / "console").write_text(console, encoding="utf-8")
                manifest = Manifest(
                    key,
                    template.name,
                    what,
                    time.time(),
                    round(time.monotonic() - began, 3),
                    digests=digests,
                    boot_id=boot_id or "",
                    macs=tuple(nic.mac for nic in vm.nics),
                    disks=disks,
                )
                save = self.store.publish(work, manifest)
        except BaseException:
            ram.close()
            state.close()
            raise
        self._progress(f"the live template of {template.name} took {manifest.seconds:.1f} s to make")
        return LoadedSave(save, ram, state, console)


class _Refused(Exception):
    """A machine cannot be saved, for a reason that stays the same."""


def _own_spec(blueprint: Blueprint) -> VMSpec:
    """Return the spec of the machine that is saved: its NICs have addresses and ports of their own."""
    nics = tuple(replace(nic, mac=None, forward=()) for nic in blueprint.spec.nics)
    return blueprint.spec.with_keywords({"nics": nics, "start": "cold"}, "saved")


def _over(image: ImagePlan, save: Save, index: int) -> ImagePlan:
    """Return the image of a clone's disk: over what the template's guest wrote, if it wrote anything."""
    saved = save.disk(index)
    if saved is None:
        return image
    return ImagePlan(image.path, "qcow2", None, str(saved), "qcow2")


def _written_disks(vm: VM) -> dict[int, ImagePlan]:
    """Return the images that the guest has written to, by their number."""
    assert vm.live is not None
    stats = vm.live.qmp.execute("query-blockstats")
    written = {entry.get("node-name") for entry in stats if entry["stats"]["wr_operations"]}
    nodes = {
        str(device.supplies.image.path): f"{device.id}-fmt"
        for device in vm.plan.devices
        if device.supplies.image is not None
    }
    return {index: image for index, image in enumerate(vm.plan.images) if nodes[image.path] in written}


def _store(path: Path, source: int) -> str:
    with path.open("xb") as file:
        return copy_file(source, file.fileno())


def _identity(path: str | os.PathLike[str] | None) -> list[object] | None:
    if path is None:
        return None
    info = os.stat(path)
    return [os.fspath(path), info.st_size, info.st_mtime_ns, info.st_ino]
