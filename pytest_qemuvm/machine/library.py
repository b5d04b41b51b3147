"""All templates of a session, by name: found, made, and who uses them."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_qemuvm.devices.place import Image
from pytest_qemuvm.errors import (
    SpecError,
    TemplateExists,
    TemplateNotFound,
    nearest,
)
from pytest_qemuvm.machine.template import Template
from pytest_qemuvm.machine.templates import BUILT_IN, how_it_boots
from pytest_qemuvm.spec.names import checked_name, name_of
from pytest_qemuvm.spec.template import SETUP_SECONDS, TemplateSpec
from pytest_qemuvm.spec.vm import VMSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_qemuvm.host.sources import Sources
    from pytest_qemuvm.machine.disks import Disk
    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.spec.template import Setup

SUITE = "the suite's file"
"""The owner of templates that ``qemuvm.yaml`` names."""


class Session(Protocol):
    """What templates need of their session."""

    def vms(self) -> list[VM]:
        """Return all VMs."""

    def disks(self) -> list[Disk]:
        """Return all disks."""

    def make_vm(self, name: str, spec: VMSpec, template: Template, owner: str) -> VM:
        """Make a VM from a template that has no name yet."""

    def boot_files(self, spec: VMSpec) -> list[Path]:
        """Return the files that a VM boots from."""

    def template_deleted(self, template: Template) -> None:
        """Note that a template is gone."""


class TemplateLibrary:
    """All templates of a session: the built-in ones, the suite's, and those that tests make."""

    def __init__(
        self, directory: Path, suite: Mapping[str, TemplateSpec], session: Session, sources: Sources
    ) -> None:
        self.sources = sources
        self._directory = directory
        self._suite = suite
        self._session = session
        self._built_in = {name: Template(name, None, TemplateSpec(), self) for name in BUILT_IN}
        self._made: dict[str, Template] = {}
        self._owners: dict[str, str] = {}
        self._lock = threading.RLock()

    def get(self, template: object) -> Template:
        """Return a template by name or handle; one of the suite's file is made now.

        Raises TemplateNotFound.
        """
        name = checked_name(name_of(template), "template")
        with self._lock:
            found = self._built_in.get(name) or self._made.get(name)
            if found is not None:
                return found
            if name in self._suite and name not in self._owners:
                return self.make(name, self._suite[name], SUITE)
        known = [*self._built_in, *self._made, *self._suite]
        raise TemplateNotFound(f"no template {name!r}", hint=nearest(name, known))

    def all(self, owner: str | None = None) -> list[Template]:
        """Return the templates that were made, in that order: all, or those made for an owner."""
        with self._lock:
            made = list(self._made.values())
            return [template for template in made if owner in (None, self._owners[template.name])]

    def make(self, name: str, spec: TemplateSpec, owner: str) -> Template:
        """Make a template; with an image and ``setup``, its image is prepared in a VM now.

        Raises TemplateExists, TemplateNotFound for the base, SpecError, ImageFormatError, and whatever the
        setup raises; nothing is left then.
        """
        checked_name(name, "template")
        base = self.get(spec.base)
        with self._lock:
            taken = "built in" if name in self._built_in else self._owners.get(name)
            if taken is not None or (name in self._suite and owner != SUITE):
                raise TemplateExists(f"there is a template {name!r} already", f"made for {taken or SUITE}")
            self._owners[name] = owner
        try:
            with base.in_use_by(name):
                template = self._new(name, base, spec)
                with self._lock:
                    self._made[name] = template
        except BaseException:
            with self._lock:
                del self._owners[name]
            raise
        return template

    def _new(self, name: str, base: Template, spec: TemplateSpec) -> Template:
        if spec.image is not None and base.image is not None:
            raise SpecError(
                f"template {name!r} has an image of its own and one of its base {base.name!r}",
                spec.where,
                "say one of them",
            )
        template = Template(name, base, spec, self)
        if spec.image is not None:
            template.adopt(Image(str(spec.image), str(spec.format)))
        how_it_boots(template.root, VMSpec().with_keywords(template.keywords, f"template {name!r}"))
        if spec.setup is None:
            return template
        if not callable(spec.setup) and template.root == "bare":
            raise SpecError(
                f"template {name!r}: there is no channel into its guest for the commands of its setup",
                spec.where,
                'use base="tiny", or a function for setup',
            )
        setup = partial(run_setup, setup=spec.setup, seconds=spec.setup_timeout or SETUP_SECONDS)
        if template.image is None:
            template.setups = (*template.setups, setup)
        else:
            self._prepare(template, setup)
        return template

    def _prepare(self, template: Template, setup: Callable[[Any], None]) -> None:
        """Run a setup in a VM whose overlay then becomes the template's image."""
        # Its overlay becomes an image of its own, so it must not rest on what a clone's disks rest on.
        spec = VMSpec().with_keywords({**template.keywords, "start": "cold"}, template.name)
        path = self._directory / f"{template.name}.qcow2"
        vm = self._session.make_vm(f"setup-{template.name}"[:63], spec, template, f"template {template.name}")
        try:
            vm.start()
            setup(vm)
            if vm.plan.guest and vm.state == "running":
                vm.run("sync")
            if vm.state != "stopped":
                vm.stop()
            path.parent.mkdir(mode=0o700, exist_ok=True)
            Path(vm.plan.images[0].path).rename(path)
        finally:
            vm.delete()
        path.chmod(0o400)
        try:
            template.adopt(Image(str(path), "qcow2"), [path])
        except BaseException:
            path.unlink()
            raise

    def users_of(self, template: Template) -> list[str]:
        """Return the names of all that rests on a template."""
        vms = [vm.name for vm in self._session.vms() if vm.spec.template == template.name]
        disks = [disk.name for disk in self._session.disks() if disk.record.template == template.name]
        # Without the lock: it may be held by a thread that makes a template on this one, and waits for us.
        others = [other.name for other in list(self._made.values()) if other.base is template]
        return [*vms, *disks, *others]

    def boot_files(self, template: Template) -> list[Path]:
        """Return the kernel and RAM disk of a template's VMs."""
        spec = VMSpec().with_keywords({**template.keywords, "template": template.root}, template.name)
        return self._session.boot_files(spec)

    def forget(self, template: Template) -> None:
        """Free the name of a deleted template."""
        with self._lock:
            self._made.pop(template.name, None)
            self._owners.pop(template.name, None)
        self._session.template_deleted(template)

    def verifications(self) -> list[Callable[[], None]]:
        """Return what is to be checked at the end of the session."""
        return [template.verify for template in self.all()]


def run_setup(vm: Any, setup: Setup, seconds: float) -> None:
    """Do in a VM that is up what a template's ``setup`` says, each command within so many seconds."""
    if callable(setup):
        setup(vm)
        return
    for command in (setup,) if isinstance(setup, str) else setup:
        vm.run(command, timeout=seconds)
