"""Templates that tests make: a named spec, with a disk image if they want one, and who uses it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_qemuvm.devices.place import Image
from pytest_qemuvm.errors import (
    SpecError,
    TemplateExists,
    TemplateInUse,
    TemplateModified,
    TemplateNotFound,
    nearest,
)
from pytest_qemuvm.host.chains import Watch, chain_of
from pytest_qemuvm.host.images import virtual_size
from pytest_qemuvm.machine.disks import SERIAL_LENGTH
from pytest_qemuvm.machine.templates import BUILT_IN
from pytest_qemuvm.spec.devices import DiskSpec
from pytest_qemuvm.spec.names import checked_name, name_of
from pytest_qemuvm.spec.template import TemplateSpec
from pytest_qemuvm.spec.vm import VMSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

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


class Template:
    """What VMs and disks start from; made by ``template_factory`` or named in ``qemuvm.yaml``."""

    def __init__(
        self, name: str, base: Template | None, spec: TemplateSpec, library: TemplateLibrary
    ) -> None:
        self.name = name
        self.base = base
        """The template that it adds to; None for a built-in one."""
        self.keywords: dict[str, Any] = {**(base.keywords if base else {}), **spec.keywords}
        """Keywords of a VM's spec, its bases' included."""
        self.image: Image | None = base.image if base else None
        """The image that its disks are overlays on."""
        self.setups: tuple[Callable[[Any], None], ...] = base.setups if base else ()
        """What is done in each of its VMs as soon as it is up."""
        self._library = library
        self._own: list[Path] = []
        self._watch = Watch(())
        self._reserved: list[str] = []
        self._is_deleted = False
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<Template {self.name!r}: {self.image.path if self.image else 'no image'}>"

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that its VMs and disks read: image, what the image rests on, kernel and RAM disk."""
        image = chain_of(Path(self.image.path), self.image.format) if self.image else ()
        return (*image, *self._library.boot_files(self))

    @property
    def users(self) -> tuple[str, ...]:
        """Names of VMs, disks and templates that rest on it."""
        with self._lock:
            return tuple(dict.fromkeys((*self._library.users_of(self), *self._reserved)))

    @property
    def root(self) -> str:
        """The name of the built-in template at the bottom."""
        return self.base.root if self.base else self.name

    def delete(self) -> None:
        """Forget it, and remove the files that were made for it, never the user's. Idempotent.

        Raises TemplateInUse while something rests on it, SpecError for a built-in one, and TemplateModified,
        after it is gone, where its image is not what it was when the template was made.
        """
        if self.base is None:
            raise SpecError(f"the template {self.name!r} is built in and stays")
        with self._lock:
            if self._is_deleted:
                return
            if users := self.users:
                raise TemplateInUse(
                    f"the template {self.name!r} is in use",
                    f"by {', '.join(users)}",
                    "delete these first",
                    users=users,
                )
            self._is_deleted = True
        self._library.forget(self)
        try:
            self.verify()
        finally:
            for path in self._own:
                path.unlink(missing_ok=True)

    @property
    def own_files(self) -> tuple[Path, ...]:
        """The files that were made for it and go with it."""
        return tuple(self._own)

    def changed_files(self) -> list[Path]:
        """Return the files of its image that are not what they were; what was not touched is not read."""
        return self._watch.changed(touched_only=True)

    def verify(self) -> None:
        """Raise TemplateModified, naming the files, unless its image is what it was."""
        changed = self._watch.changed()
        if changed:
            paths = [str(path) for path in changed]
            raise TemplateModified(
                f"the image of template {self.name!r} was modified while it was in use",
                "\n".join(paths),
                "something wrote to it behind the harness's back; what was made from it cannot be believed",
                paths=paths,
            )

    @contextmanager
    def in_use_by(self, name: str) -> Iterator[None]:
        """Count a VM or disk as a user while it is being made. Raises TemplateNotFound where it is gone."""
        with self._lock:
            if self._is_deleted:
                raise TemplateNotFound(f"the template {self.name!r} has been deleted")
            self._reserved.append(name)
        try:
            yield
        finally:
            with self._lock:
                self._reserved.remove(name)

    def planned(self, spec: VMSpec) -> VMSpec:
        """Return what is planned for a VM's spec: the built-in template, and the image as its first disk."""
        keywords: dict[str, Any] = {"template": self.root}
        if self.image is not None:
            serial = self.name[:SERIAL_LENGTH]
            disk = DiskSpec(path=self.image.path, format=_format(self.image), serial=serial)
            keywords["disks"] = (disk, *spec.disks)
        return spec.with_keywords(keywords, self.name)

    def planned_disk(self, keywords: Mapping[str, Any]) -> tuple[DiskSpec, Image]:
        """Return the spec of a disk that is an overlay on the image, and the image. Raises SpecError."""
        if self.image is None:
            raise SpecError(
                f"the template {self.name!r} has no image that a disk could be an overlay on",
                hint="make one with template_factory(name, image=..., format=...)",
            )
        least = virtual_size(self.image.path, self.image.format)
        spec = DiskSpec(**{"size": least, **keywords})
        if spec.format != "qcow2":
            raise SpecError(f"a disk from a template is an overlay, which has to be qcow2, not {spec.format}")
        if spec.bytes < least:
            raise SpecError(f"{spec.size!r} bytes are less than the {least} of the template {self.name!r}")
        return spec, self.image

    def adopt(self, image: Image, own: Sequence[Path] = ()) -> None:
        """Take an image for its own; files of ``own`` go with it. All it rests on is watched from now on."""
        self._own = list(own)
        self._watch = Watch(chain_of(Path(image.path), image.format))
        self.image = image


class TemplateLibrary:
    """All templates of a session: the built-in ones, the suite's, and those that tests make."""

    def __init__(self, directory: Path, suite: Mapping[str, TemplateSpec], session: Session) -> None:
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
        VMSpec().with_keywords(template.keywords, f"template {name!r}")
        if spec.image is not None:
            template.adopt(Image(str(spec.image), str(spec.format)))
        if spec.setup is None:
            return template
        if template.image is None:
            if not callable(spec.setup) and template.root == "bare":
                raise SpecError(
                    f"template {name!r}: no guest could run the commands of its setup",
                    spec.where,
                    'use base="tiny", or a function for setup',
                )
            template.setups = (*template.setups, partial(run_setup, setup=spec.setup))
        else:
            self._prepare(template, spec.setup)
        return template

    def _prepare(self, template: Template, setup: Setup) -> None:
        """Run a setup in a VM whose overlay then becomes the template's image."""
        spec = VMSpec().with_keywords(template.keywords, template.name)
        path = self._directory / f"{template.name}.qcow2"
        vm = self._session.make_vm(f"setup-{template.name}"[:63], spec, template, f"template {template.name}")
        try:
            vm.start()
            run_setup(vm, setup)
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

    def verifications(self) -> list[Callable[[], None]]:
        """Return what is to be checked at the end of the session."""
        return [template.verify for template in self.all()]


def run_setup(vm: Any, setup: Setup) -> None:
    """Do in a VM that is up what a template's ``setup`` says."""
    if callable(setup):
        setup(vm)
        return
    for command in (setup,) if isinstance(setup, str) else setup:
        vm.run(command)


def _format(image: Image) -> Any:
    return image.format
