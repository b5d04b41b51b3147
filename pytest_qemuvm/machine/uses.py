"""The user's images that one VM uses, at launch or plugged later: watched as long as it does."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.devices.place import Image
from pytest_qemuvm.errors import ImageModified, SpecError
from pytest_qemuvm.host.chains import chain_of
from pytest_qemuvm.spec.devices import CdromSpec, DiskSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_qemuvm.host.sources import Sources, Watch
    from pytest_qemuvm.spec.devices import DeviceSpec

LAUNCH = "launch"
"""The user of the images that the machine has from its start."""


class Uses:
    """Which of the user's images a VM uses, by the id of the device; and which changed meanwhile."""

    def __init__(self, name: str, sources: Sources) -> None:
        self._name = name
        self._sources = sources
        self._watches: dict[str, Watch] = {}
        self._changed: list[Path] = []

    def begin(self, device: str, images: Iterable[Image]) -> None:
        """Note what images are like, with all they rest on, before a device uses them.

        Raises SpecError and ImageFormatError for what cannot be used.
        """
        self._watches[device] = self._watch(files_of(images))

    def begin_medium(self, device: str, path: Path) -> None:
        """Note what a medium is like before a drive has it; it may hold anything. Raises SpecError."""
        self._watches[device] = self._watch([path])

    def _watch(self, files: list[Path]) -> Watch:
        try:
            return self._sources.watch(files)
        except OSError as error:
            raise SpecError(f"an image cannot be read: {error}") from error

    def end(self, device: str) -> None:
        """Note which images of a device have changed: it uses them no more. Raises nothing."""
        watch = self._watches.pop(device, None)
        if watch is not None:
            self._changed += watch.changed()

    def end_plugged(self) -> None:
        """Do that for all that went with the machine; what it was launched with it will start with again."""
        for device in [device for device in self._watches if device != LAUNCH]:
            self.end(device)

    def end_all(self) -> None:
        """Do that for everything."""
        for device in list(self._watches):
            self.end(device)

    def check(self) -> None:
        """Raise ImageModified, once, where images have changed while they were in use."""
        changed, self._changed = list(dict.fromkeys(self._changed)), []
        if changed:
            paths = [str(path) for path in changed]
            raise ImageModified(
                f"images of yours were modified while VM {self._name!r} used them",
                "\n".join(paths),
                "something wrote to them behind the harness's back; what the VM read cannot be believed",
                paths=paths,
            )


def files_of(images: Iterable[Image]) -> list[Path]:
    """Return the files of images and of all they rest on. Raises SpecError and ImageFormatError."""
    return list(chain.from_iterable(chain_of(Path(image.path), image.format) for image in images))


def image_of(spec: DeviceSpec) -> tuple[Image, ...]:
    """Return the user's image that a disk's spec names; the harness's own images are none."""
    if isinstance(spec, DiskSpec) and spec.path is not None and spec.handle is None:
        return (Image(str(spec.path), spec.format),)
    return ()


def medium_of(spec: DeviceSpec) -> Path | None:
    """Return the medium of a CD drive's spec."""
    return Path(spec.path) if isinstance(spec, CdromSpec) and spec.path is not None else None
