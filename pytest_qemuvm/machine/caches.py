"""Disks with a volatile cache: what a run wrote, what a power cut leaves of it, where the next run begins.

Each run writes to an overlay of its own and notes in a log what it writes and flushes. Below the overlay lies
what the disk keeps. When the run has ended, the overlay is thrown away, and what the disk keeps is taken from
the log: after a power cut the changes that survive it, else all of them.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pytest_qemuvm.devices.place import Image
from pytest_qemuvm.errors import QemuVMError, SpecError, nearest
from pytest_qemuvm.host.images import virtual_size
from pytest_qemuvm.host.kept_image import KeptImage
from pytest_qemuvm.host.memory import copy_data
from pytest_qemuvm.host.write_log import Keep, read_log, surviving
from pytest_qemuvm.plan import ImagePlan
from pytest_qemuvm.spec.seeds import checked_seed, chosen_seed

if TYPE_CHECKING:
    from typing import BinaryIO

    from pytest_qemuvm.host.provision import Provisioner
    from pytest_qemuvm.host.write_log import Entry
    from pytest_qemuvm.plan import CachePlan


@dataclass(frozen=True, slots=True)
class PowerCut:
    """What became of a machine's disks when its power was cut."""

    keep: Keep
    seed: int | None
    """With ``keep="random"``: what has the same subset survive again, of the same writes."""
    flushed: int
    """Writes and discards that the machine knew to be safe: all of them are there."""
    kept: int
    """Later ones that are there all the same."""
    lost: int
    """Later ones that are not."""

    def __str__(self) -> str:
        how = f"keep={self.keep!r}" + (f", seed={self.seed}" if self.seed is not None else "")
        return f"{how}: {self.flushed} flushed writes; of those after, {self.kept} kept and {self.lost} lost"


def checked_cut(keep: object, seed: object) -> tuple[Keep, int | None]:
    """Return what a power cut is to keep, with a seed where it needs one. Raises SpecError."""
    if keep not in get_args(Keep):
        raise SpecError(f"keep: {keep!r} is nothing a cut can keep", hint=nearest(str(keep), get_args(Keep)))
    number = checked_seed(seed)
    if number is not None and keep != "random":
        raise SpecError(f"seed: with keep={keep!r} nothing is left to chance", hint="use keep='random'")
    if keep == "random":
        number = chosen_seed(number)
    return keep, number  # type: ignore[return-value]  # it is one of them


class Caches:
    """What the disks of one VM keep from run to run, where they have volatile caches."""

    def __init__(self, provisioner: Provisioner) -> None:
        self._provisioner = provisioner
        self._tops: dict[str, Image] = {}
        """What lies below the overlay of the next run, by disk."""
        self._bases: dict[str, Image] = {}
        """Where that was made of logs: the image that it rests on."""
        self._numbers = itertools.count(1)

    def begin(self, caches: tuple[CachePlan, ...]) -> None:
        """Make what a run writes to; what the last run wrote is kept. Raises QemuVMError."""
        for cache in caches:
            try:
                if Path(cache.scratch).exists():
                    self._keep(cache)
                below = self._tops.setdefault(cache.id, cache.kept)
                plan = ImagePlan(cache.scratch, "qcow2", None, below.path, below.format)
                with ExitStack() as stack:
                    self._provisioner.make_image(plan, stack)
                    Path(cache.log).write_bytes(b"")
                    stack.pop_all()  # it goes with the VM's directory, as what is kept does
            except OSError as error:
                raise QemuVMError(f"the cache of disk {cache.id!r} cannot be made: {error}") from error

    def _keep(self, cache: CachePlan) -> None:
        """Have a disk keep all that the last run wrote.

        That is in the log. Of the overlay QEMU may have had parts in its memory when it was killed; but where
        the log has a hole, it is the better account.
        """
        with Path(cache.log).open("rb") as log:
            entries, whole = read_log(log)
            if whole:
                self._leave(cache, surviving(entries, "all", "")[0], log)
                return
        kept = self._fresh(cache)
        Path(cache.scratch).rename(kept)
        self._tops[cache.id] = Image(str(kept), "qcow2")
        self._bases.pop(cache.id, None)

    def cut(self, caches: tuple[CachePlan, ...], keep: Keep, seed: int | None) -> PowerCut:
        """Throw away what a run wrote, but for what survives of it; QEMU has ended. Raises QemuVMError."""
        flushed = kept = lost = 0
        for cache in caches:
            try:
                with Path(cache.log).open("rb") as log:
                    entries, _ = read_log(log)
                    changes, lucky, unlucky = surviving(entries, keep, f"{seed}/{cache.id}")
                    self._leave(cache, changes, log)
            except OSError as error:
                raise QemuVMError(
                    f"what the power cut left of {cache.id!r} cannot be written: {error}"
                ) from error
            flushed += len(changes) - lucky
            kept, lost = kept + lucky, lost + unlucky
        return PowerCut(keep, seed, flushed, kept, lost)

    def _leave(self, cache: CachePlan, changes: list[Entry], log: BinaryIO) -> None:
        """Have what is kept of a disk be what it was with these changes, and the run's own overlay gone.

        What earlier runs left is taken over, so that many of them make no long chain of images.
        """
        top, made = self._tops[cache.id], self._fresh(cache)
        base = self._bases.get(cache.id)
        try:
            with made.open("x+b") as file:
                if base is None:
                    image = KeptImage(file)
                else:
                    with Path(top.path).open("rb") as earlier:
                        copy_data(earlier.fileno(), file.fileno())
                    image = KeptImage.reopened(file)
                image.apply(changes, log)
                below = base or top
                image.finish(virtual_size(cache.kept.path, cache.kept.format), below.path, below.format)
        except BaseException:
            made.unlink(missing_ok=True)
            raise
        Path(cache.scratch).unlink()
        Path(cache.log).unlink()
        if base is not None:
            Path(top.path).unlink()
        self._tops[cache.id], self._bases[cache.id] = Image(str(made), "qcow2"), below

    def _fresh(self, cache: CachePlan) -> Path:
        """Return the path of an image that is not there yet."""
        return Path(cache.scratch).with_name(f"{cache.id}.kept{next(self._numbers)}.qcow2")
