"""The making of a live template: a machine is booted once, brought to rest, saved, and put into the cache."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pytest_qemuvm.devices.disk import format_node
from pytest_qemuvm.errors import CannotSave
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.host.memory import MemoryFile, copy_file
from pytest_qemuvm.host.saves import RAM_FILE, STATE_FILE, LoadedSave, Manifest
from pytest_qemuvm.machine.saving import make_ready, save_state
from pytest_qemuvm.plan import plan_machine
from pytest_qemuvm.plan.saving import links_saved, nics_saved

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_qemuvm.host.saves import SaveStore
    from pytest_qemuvm.machine.template import Template
    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.plan import ImagePlan, MachinePlan, Surroundings
    from pytest_qemuvm.spec.network import Link
    from pytest_qemuvm.spec.vm import VMSpec

LIVE = "live template"
"""What the owner of a machine begins with that is made to be saved."""


class Refused(Exception):  # internal; it becomes the reason why a VM boots
    """A machine cannot be saved, for a reason that stays the same."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a VM is planned from."""

    template: Template
    asked: VMSpec
    spec: VMSpec
    """As it is planned: over the built-in template, with the template's image as a disk."""
    world: Surroundings

    def plan(self) -> MachinePlan:
        """Return the plan of a machine that boots."""
        return plan_machine(self.spec, self.world)


class Session(Protocol):
    """What the making of live templates needs of the session."""

    def make_vm(
        self,
        name: str,
        spec: VMSpec,
        template: Template,
        owner: str,
        *,
        memory: MemoryFile | None = None,
        links: Mapping[str, Link] | None = None,
    ) -> VM:
        """Make a VM, with its memory in that file, and its NICs connected like that."""


class Maker:
    """Makes live templates."""

    def __init__(self, store: SaveStore, session: Session, progress: Callable[[str], None]) -> None:
        self._store = store
        self._session = session
        self._progress = progress

    def make(self, key: str, blueprint: Blueprint) -> LoadedSave:
        """Make the save of that key. The caller has its turn in the store.

        Raises Refused where QEMU cannot save such a machine, which is noted in the cache, and whatever its
        boot and its template's setup raise.
        """
        began = time.monotonic()
        template, spec = blueprint.template, blueprint.spec
        self._progress(f"making the live template of {template.name} ({spec})")
        ram, state = MemoryFile(RAM_FILE, spec.bytes), MemoryFile(STATE_FILE)
        manifest = Manifest(
            key,
            template.name,
            f"{spec}; disks: {len(spec.disks)}, NICs: {len(spec.nics)}",
            time.time(),
            seconds=0.0,
        )
        try:
            with self._store.room(key) as work, ExitStack() as stack:
                name, owner = f"live-{key}", f"{LIVE} {template.name}"
                links = links_saved(blueprint.world)
                vm = self._session.make_vm(
                    name, _spec_of(blueprint), template, owner, memory=ram, links=links
                )
                stack.callback(vm.delete)
                vm.start()
                try:
                    manifest, console = self._save(vm, manifest, state, work)
                except CannotSave as error:
                    reason = error.details or error.brief
                    self._store.publish(work, replace(manifest, refused=reason))
                    raise Refused(reason) from error
                digests = {
                    RAM_FILE: _store(ram.fileno(), work / RAM_FILE),
                    STATE_FILE: _store(state.fileno(), work / STATE_FILE),
                }
                ram.seal()
                state.seal()
                manifest = replace(
                    manifest,
                    digests={**manifest.digests, **digests},
                    seconds=round(time.monotonic() - began, 3),
                )
                save = self._store.publish(work, manifest)
        except BaseException:
            ram.close()
            state.close()
            raise
        self._progress(f"the live template of {template.name} took {manifest.seconds:.1f} s to make")
        return LoadedSave(save, ram, state, console)

    @staticmethod
    def _save(vm: VM, manifest: Manifest, state: MemoryFile, work: Path) -> tuple[Manifest, str]:
        """Save a machine that is up, end it, take its disks; return what is to be noted, and its console."""
        live = vm.live
        assert live is not None
        assert live.channel is not None
        make_ready(live, Deadline.after(vm.spec.boot_timeout))
        written = _written_disks(vm)
        boot_id, console = live.channel.boot_id, live.console.text
        save_state(live, state)
        vm.stop(graceful=False)
        disks, digests = {}, {}
        for index, image in written.items():
            if image.format != "qcow2":
                raise CannotSave("a raw disk was written to before the machine was saved")
            disks[str(index)] = name = f"disk{index}.qcow2"
            with Path(image.path).open("rb") as file:
                digests[name] = _store(file.fileno(), work / name)
        (work / "console").write_text(console, encoding="utf-8")
        macs = tuple(nic.mac for nic in vm.nics)
        return replace(manifest, digests=digests, boot_id=boot_id or "", macs=macs, disks=disks), console


def _spec_of(blueprint: Blueprint) -> VMSpec:
    """Return the spec of the machine that is saved: its NICs have addresses and ports of their own."""
    return blueprint.asked.with_keywords({"nics": nics_saved(blueprint.asked), "start": "cold"}, "saved")


def _written_disks(vm: VM) -> dict[int, ImagePlan]:
    """Return the images that the guest has written to, by their number."""
    assert vm.live is not None
    stats = vm.live.qmp.execute("query-blockstats")
    written = {entry.get("node-name") for entry in stats if entry["stats"]["wr_operations"]}
    nodes = {
        str(device.supplies.image.path): format_node(device.id)
        for device in vm.plan.devices
        if device.supplies.image is not None
    }
    return {index: image for index, image in enumerate(vm.plan.images) if nodes[image.path] in written}


def _store(source: int, path: Path) -> str:
    """Copy a file into the cache, to be read only, and return its digest."""
    with path.open("xb") as file:
        digest = copy_file(source, file.fileno())
    path.chmod(0o400)
    return digest
