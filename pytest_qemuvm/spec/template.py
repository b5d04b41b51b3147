"""A template as a test, or the suite's file, describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import SpecError, nearest
from pytest_qemuvm.spec.devices import DiskFormat, one_of
from pytest_qemuvm.spec.vm import SPEC_KEYS, VMSpec

if TYPE_CHECKING:
    import os

Setup = str | tuple[str, ...] | Callable[[Any], object]
"""Commands for the guest's shell, or a function that is given the VM."""

VM_KEYS = tuple(key for key in SPEC_KEYS if key not in ("template", "needs"))
"""The keywords of a VM's spec that a template may set."""
TEMPLATE_KEYS = ("base", "image", "format", "setup", *VM_KEYS)
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
        object.__setattr__(self, "image", Path(self.image).absolute())


def _checked_setup(value: object) -> Setup | None:
    if value is None or isinstance(value, str) or callable(value):
        return value
    commands = tuple(value) if isinstance(value, Iterable) else (value,)
    for command in commands:
        if not isinstance(command, str):
            raise SpecError(f"setup: {command!r} is not a command", hint="give strings, or a function")
    return commands
