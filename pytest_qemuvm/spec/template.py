"""A template as a test, or the suite's file, describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import SpecError, nearest
from pytest_qemuvm.spec.devices import DiskFormat, one_of
from pytest_qemuvm.spec.names import checked_path
from pytest_qemuvm.spec.vm import SPEC_KEYS, VMSpec, seconds

if TYPE_CHECKING:
    import os

Setup = str | tuple[str, ...] | Callable[[Any], object]
"""Commands for the guest's shell, or a function that is given the VM."""

SETUP_SECONDS = 60.0
"""How long a command of a setup may take unless told otherwise."""

OWN_KEYS = ("base", "image", "format", "setup", "setup_timeout")
VM_KEYS = tuple(key for key in SPEC_KEYS if key not in ("template", "needs", *OWN_KEYS))
"""The keywords of a VM's spec that a template passes on as they are."""
TEMPLATE_KEYS = (*OWN_KEYS, *VM_KEYS)
"""The keywords of ``template_factory``."""


@dataclass(frozen=True, slots=True)
class TemplateSpec:
    """A named start for VMs and disks: another template, with keywords of a spec and an image if wanted."""

    base: object = "tiny"
    """A template's name or handle."""
    image: str | os.PathLike[str] | None = None
    """The user's disk image. It is never written, and its format never guessed."""
    format: DiskFormat | None = None
    """The image's format; to be said with every image."""
    setup: Any = None
    """Commands for the guest (a string or several), or a function that is given the VM."""
    setup_timeout: float | None = None
    """Seconds that each command of the setup may take; None: 60."""
    keywords: Mapping[str, Any] = field(default_factory=dict)
    where: str | None = None
    """The place in a file where it stands, for errors."""

    def __post_init__(self) -> None:
        for key in self.keywords:
            if key not in VM_KEYS:
                raise SpecError(
                    f"{key!r} is not part of a template",
                    self.where,
                    "say base= for what it starts from" if key == "template" else nearest(key, TEMPLATE_KEYS),
                )
        VMSpec().with_keywords(self.keywords, "template")
        object.__setattr__(self, "setup", _checked_setup(self.setup))
        if self.setup_timeout is not None:
            object.__setattr__(self, "setup_timeout", seconds(self.setup_timeout, "setup_timeout"))
            if self.setup is None or callable(self.setup):
                raise SpecError(
                    "setup_timeout= is for the commands of a setup, and there are none",
                    self.where,
                    "a function can give vm.run a timeout of its own",
                )
        if self.image is None:
            if self.format is not None:
                raise SpecError("format= says what the image is, and there is no image=", self.where)
            return
        if self.format is None:
            raise SpecError(
                f"the format of the image {self.image} is not guessed",
                self.where,
                "say format='qcow2' or format='raw'",
            )
        one_of(self.format, DiskFormat, "disk format")
        object.__setattr__(self, "image", checked_path(self.image, "disk image").absolute())


def _checked_setup(value: object) -> Setup | None:
    if value is None or isinstance(value, str) or callable(value):
        return value
    commands = tuple(value) if isinstance(value, Iterable) else (value,)
    for command in commands:
        if not isinstance(command, str):
            raise SpecError(f"setup: {command!r} is not a command", hint="give strings, or a function")
    return commands
