"""Clones: which VM starts as one, and of which live template."""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import QemuVMError, QemuVMWarning, SpecError
from pytest_qemuvm.host.paths import file_identity
from pytest_qemuvm.host.saves import LoadedSave, SaveDamaged, SaveStore
from pytest_qemuvm.machine.making import Maker, Refused
from pytest_qemuvm.plan import ImagePlan, plan_machine
from pytest_qemuvm.plan.saving import shape_of, why_cold
from pytest_qemuvm.spec.fingerprint import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_qemuvm.host.saves import Save
    from pytest_qemuvm.machine.making import Blueprint, Session
    from pytest_qemuvm.machine.observed import Observed
    from pytest_qemuvm.plan import MachinePlan
    from pytest_qemuvm.spec.vm import Start

CLONE = "clone"
POOLED = "pooled"
KEPT_LOADED = 4
"""How many saves stay in memory, each with what its guest had written there: some 100 MiB."""


@dataclass(frozen=True, slots=True)
class Clone:
    """A way for a VM to start: with the memory of a live template."""

    key: str
    plan: MachinePlan
    save: LoadedSave


class LiveTemplates:
    """The live templates that a session uses; what is missing is made when it is first asked for."""

    def __init__(
        self,
        store: SaveStore,
        session: Session,
        host: Mapping[str, Any],
        wish: Start,
        progress: Callable[[str], None],
    ) -> None:
        self.store = store
        self.starts: Counter[str] = Counter()
        """How VMs with a guest came up for the first time: ``clone``, or why one booted.

        Clones that were prepared ahead are counted as ``pooled`` too.
        """
        self._maker = Maker(store, session, progress)
        self._host = dict(host)
        """What of the host shapes a saved machine; empty where none can be."""
        self._wish = wish
        self._progress = progress
        self._loaded: dict[str, LoadedSave] = {}
        self._failed: set[str] = set()
        """Of which a clone did not come up; each is made anew once."""
        self._unmade: dict[str, str] = {}
        """What could not be made, and why; it is not tried again."""
        self._lock = threading.RLock()

    def clone_for(self, vm: Observed) -> Clone | None:
        """Return the clone that a VM starts as; None where it boots, which it is told the reason of.

        Its template is made live if it is not. Raises SpecError where the VM was to be a clone and cannot.
        """
        wish = vm.spec.start or self._wish
        clone: Clone | None = None
        try:
            self._check(vm, wish)
            clone = self._clone(vm.blueprint)
        except Refused as refused:
            vm.cold_because = str(refused)
            if wish == "clone":
                raise SpecError(
                    f"VM {vm.name!r} cannot be a clone: {refused}", hint="start='auto' boots it then"
                ) from refused
        with self._lock:
            if vm.plan.boot != "none":
                self.starts[vm.cold_because or CLONE] += 1
        return clone

    def loaded_clone(self, blueprint: Blueprint) -> Clone | None:
        """Return the clone that a VM can be with nothing read or made; the caller closes its save.

        Nothing is counted: nobody may ever get it. Raises SpecError where its template cannot be told.
        """
        key = self.key_of(blueprint)
        with self._lock:
            loaded = self._loaded.get(key)
            return None if loaded is None else self._planned(key, blueprint, loaded.duplicate())

    def count_pooled(self) -> None:
        """Count a clone that was prepared ahead."""
        with self._lock:
            self.starts[CLONE] += 1
            self.starts[POOLED] += 1

    def take_starts(self) -> Counter[str]:
        """Return how VMs came up since this was asked last: ``clone``, or why one booted."""
        with self._lock:
            starts, self.starts = self.starts, Counter()
        return starts

    def again(self, vm: Observed, clone: Clone, error: QemuVMError) -> Clone:
        """Return another clone for a VM whose first did not come up: of a template made anew, but only once.

        Raises the error the second time.
        """
        with self._lock:
            if clone.key in self._failed:
                raise error
            self._failed.add(clone.key)
            self._let_go(clone.key)
        self.store.remove(clone.key)
        brief = f"VM {vm.name!r} did not come up as a clone, so its template is made anew: {error.brief}"
        warnings.warn(QemuVMWarning(brief), stacklevel=2)
        return self._clone(vm.blueprint)

    def close(self) -> None:
        """Let go of all that is loaded."""
        with self._lock:
            for key in list(self._loaded):
                self._let_go(key)

    def key_of(self, blueprint: Blueprint) -> str:
        """Return the name of the save that a VM would be a clone of: a digest of all that shapes it.

        Raises SpecError where that cannot be told of a setup.
        """
        world = blueprint.world
        boot = world.boot
        named = [disk.path for disk in blueprint.spec.disks]
        named += [boot.kernel, boot.initrd] if boot else []
        content = {
            "machine": shape_of(blueprint.spec, world),
            "files": [file_identity(Path(path)) for path in named if path is not None],
            "setup": fingerprint(blueprint.template.setups),
            "host": self._host,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]

    def _check(self, vm: Observed, wish: Start) -> None:
        """Raise Refused where a VM is not to be a clone, or cannot."""
        if not self._host:
            raise Refused("a dry-run runs no guest")
        if reason := why_cold(vm.blueprint.spec, vm.plan):
            raise Refused(reason)
        session = vm.run_dir.parent
        if any(disk.path and Path(disk.path).is_relative_to(session) for disk in vm.blueprint.spec.disks):
            # A save of it would be of no use to any other session, and in nobody's way but the disk's.
            raise Refused("its template's image was prepared for this session")
        if wish == "cold":
            raise Refused("start='cold'" if vm.spec.start else "--qemu-start=cold")

    def _clone(self, blueprint: Blueprint) -> Clone:
        try:
            key = self.key_of(blueprint)
        except SpecError as error:
            raise Refused(error.brief) from error
        return self._planned(key, blueprint, self._obtain(key, blueprint))

    @staticmethod
    def _planned(key: str, blueprint: Blueprint, loaded: LoadedSave) -> Clone:
        plan = plan_machine(blueprint.spec, replace(blueprint.world, memory="clone"))
        images = tuple(_over(image, loaded.save, index) for index, image in enumerate(plan.images))
        return Clone(key, replace(plan, images=images), loaded)

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
        if key in self._unmade:
            raise Refused(self._unmade[key])
        save = self.store.find(key)
        if save is None:
            with self.store.turn(key, self._waiting):
                save = self.store.find(key)
                if save is None:
                    return self._make(key, blueprint)
        if save.manifest.refused is not None:
            raise Refused(save.manifest.refused)
        try:
            return self.store.load(save)
        except SaveDamaged as error:
            warnings.warn(QemuVMWarning(f"{error.brief}; it is made anew"), stacklevel=2)
            with self.store.turn(key, self._waiting):
                return self._make(key, blueprint)

    def _make(self, key: str, blueprint: Blueprint) -> LoadedSave:
        """Make a save. Where its machine does not come up, the VM does not either, and shows how it fails."""
        try:
            return self._maker.make(key, blueprint)
        except Exception as error:  # also what a setup raises
            if not isinstance(error, Refused):
                brief = error.brief if isinstance(error, QemuVMError) else f"{type(error).__name__}: {error}"
                self._unmade[key] = f"its live template could not be made: {brief}"
                raise Refused(self._unmade[key]) from error
            raise

    def _waiting(self, holder: str) -> None:
        self._progress(f"waiting for the live template that {holder} is making")

    def _let_go(self, key: str) -> None:
        loaded = self._loaded.pop(key, None)
        if loaded is not None:
            loaded.close()


def _over(image: ImagePlan, save: Save, index: int) -> ImagePlan:
    """Return the image of a clone's disk: over what the template's guest wrote, if it wrote anything."""
    saved = save.disk(index)
    return image if saved is None else ImagePlan(image.path, "qcow2", None, str(saved), "qcow2")
