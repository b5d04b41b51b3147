"""A template that a test made: a named spec, with a disk image if it has one, and who uses it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_qemuvm.errors import SpecError, TemplateInUse, TemplateModified, TemplateNotFound
from pytest_qemuvm.host.chains import chain_of
from pytest_qemuvm.host.images import virtual_size
from pytest_qemuvm.machine.disks import SERIAL_LENGTH
from pytest_qemuvm.machine.templates import how_it_boots
from pytest_qemuvm.spec.devices import DiskSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_qemuvm.devices.place import Image
    from pytest_qemuvm.host.sources import Sources
    from pytest_qemuvm.spec.devices import DiskFormat
    from pytest_qemuvm.spec.template import TemplateSpec
    from pytest_qemuvm.spec.vm import VMSpec


class Library(Protocol):
    """What a template needs of the library that it is in."""

    sources: Sources

    def users_of(self, template: Template) -> list[str]:
        """Return the names of all that rests on it."""

    def boot_files(self, template: Template) -> list[Path]:
        """Return the kernel and RAM disk of its VMs."""

    def forget(self, template: Template) -> None:
        """Free its name."""


class Template:
    """What VMs and disks start from; made by ``template_factory`` or named in ``qemuvm.yaml``."""

    def __init__(self, name: str, base: Template | None, spec: TemplateSpec, library: Library) -> None:
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
        self._watch = library.sources.watch(())
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
        return self._watch.changed("touched")

    def verify(self) -> None:
        """Raise TemplateModified, naming the files, unless its image is what it was."""
        changed = self._watch.changed("all")
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
        """Return what is planned for a VM's spec: the built-in template, and its image as its first disk.

        Raises SpecError where the template cannot boot as the spec wants.
        """
        keywords: dict[str, Any] = {"template": self.root, "boot": how_it_boots(self.root, spec)}
        if spec.image is not None:
            serial = self.name if self.has_image_of(spec) else "image"
            disk = DiskSpec(path=spec.image, format=_format(spec), serial=serial[:SERIAL_LENGTH])
            keywords["disks"] = (disk, *spec.disks)
        return spec.with_keywords(keywords, self.name)

    def has_image_of(self, spec: VMSpec) -> bool:
        """Return whether the image that a spec names is the template's, which watches it."""
        return self.image is not None and str(spec.image) == self.image.path

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
        files = chain_of(Path(image.path), image.format)
        try:
            self._watch = self._library.sources.watch(files)
        except OSError as error:
            raise SpecError(f"an image of template {self.name!r} cannot be read: {error}") from error
        self.image = image
        self.keywords |= {"image": image.path, "format": image.format}


def _format(spec: VMSpec) -> DiskFormat:
    assert spec.format is not None
    return spec.format
