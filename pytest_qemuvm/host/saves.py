"""The cache of live templates: saved machines on disk, made whole or not at all, known by what shaped them.

A save is a directory named after its key. It is filled under another name and renamed when complete, so what
has the name is whole, whatever was killed and when. What lies in it is digested, and compared when it is
loaded.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import QemuVMError
from pytest_qemuvm.host.memory import MemoryFile, copy_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

FORMAT = 1
"""Raised whenever what a save consists of changes."""
MANIFEST = "manifest.json"
RAM_FILE = "ram"
STATE_FILE = "state"
BUILD_SECONDS = 600.0
"""How long another process is waited for that makes the same save, which takes seconds."""
MOST_BYTES = 8 * 1024**3
"""How much of the disk all saves may take before those go that were used longest ago."""
MOST_DAYS = 30.0
"""How long a save stays that nobody uses."""


class SaveDamaged(QemuVMError):
    """A saved machine is not what it was when it was saved."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a save says of itself."""

    key: str
    template: str
    """The name of the template it was made for first."""
    what: str
    """The machine, for people."""
    made: float
    """When, in seconds since the epoch."""
    seconds: float
    """How long its making took."""
    refused: str | None = None
    """Why QEMU could not save such a machine; there are no files then."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Of each file, by name."""
    boot_id: str = ""
    """The id of the boot that was saved, by which its agent is addressed."""
    macs: tuple[str, ...] = ()
    """The addresses that its NICs had."""
    disks: Mapping[str, str] = field(default_factory=dict)
    """Files of disks that were written to, by the index of the disk."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Save:
    """A save on disk."""

    directory: Path
    manifest: Manifest

    @property
    def size(self) -> int:
        """Bytes that it takes on disk."""
        return sum(entry.stat().st_blocks * 512 for entry in self.directory.iterdir())

    @property
    def used(self) -> float:
        """When it was used last, in seconds since the epoch."""
        return (self.directory / MANIFEST).stat().st_mtime

    def disk(self, index: int) -> Path | None:
        """Return the image of a disk that the guest wrote to before it was saved; None for an empty one."""
        name = self.manifest.disks.get(str(index))
        return None if name is None else self.directory / name


class LoadedSave:
    """A save in memory, sealed: what clones are made of."""

    def __init__(self, save: Save, ram: MemoryFile, state: MemoryFile, console: str) -> None:
        self.save = save
        self.ram = ram
        self.state = state
        self.console = console
        """What the console had said before it was saved."""

    def duplicate(self) -> LoadedSave:
        """Return another hold on it, for a thread that nobody waits for before letting go."""
        return LoadedSave(self.save, self.ram.duplicate(), self.state.duplicate(), self.console)

    def close(self) -> None:
        """Let go of it; clones that run keep what they need."""
        self.ram.close()
        self.state.close()


class SaveStore:
    """All saves of a user."""

    def __init__(self, cache: Path) -> None:
        self.directory = cache / "live"

    def find(self, key: str) -> Save | None:
        """Return the save of that key, if there is one that is whole."""
        directory = self.directory / key
        try:
            content: dict[str, Any] = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
            if content["format"] != FORMAT or content["key"] != key:
                return None
            content["macs"] = tuple(content["macs"])
            manifest = Manifest(**content)
            if any(not (directory / name).exists() for name in manifest.digests):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            # Not there, of another version, or touched by somebody: it is made (again).
            return None
        return Save(directory, manifest)

    def load(self, save: Save) -> LoadedSave:
        """Read a save into sealed memory and see that it is what was saved. Raises SaveDamaged."""
        ram, state = MemoryFile(RAM_FILE), MemoryFile(STATE_FILE)
        try:
            for name, target in ((RAM_FILE, ram), (STATE_FILE, state)):
                self._verified(save, name, target.fileno())
            for name in save.manifest.disks.values():
                self._verified(save, name, None)
            console = (save.directory / "console").read_text(encoding="utf-8")
            ram.seal()
            state.seal()
        except BaseException as error:
            ram.close()
            state.close()
            if isinstance(error, OSError):
                raise SaveDamaged(f"the saved machine in {save.directory} cannot be read: {error}") from error
            raise
        with suppress(OSError):  # a cache that cannot be written serves as well; its saves only look unused
            os.utime(save.directory / MANIFEST)
        return LoadedSave(save, ram, state, console)

    @staticmethod
    def _verified(save: Save, name: str, target: int | None) -> None:
        path = save.directory / name
        with path.open("rb") as file:
            found = copy_file(file.fileno(), target)
        if found != save.manifest.digests[name]:
            raise SaveDamaged(
                f"the saved machine in {save.directory} is not what was saved: {name} has changed",
                f"sha256 when it was saved: {save.manifest.digests[name]}\nnow: {found}",
                "`qemuvm templates rm` removes it; it is made anew when it is next wanted",
            )

    @contextmanager
    def turn(self, key: str, waiting: Callable[[str], object]) -> Iterator[None]:
        """Hold the right to make that save; ``waiting`` is told once for whom. Raises LockTimeout."""
        from pytest_qemuvm.host.deadline import Deadline  # noqa: PLC0415  # a hit, the usual case, needs no lock
        from pytest_qemuvm.host.locks import locked  # noqa: PLC0415  # as above

        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        what = "the live template that is being made"
        with locked(self.directory / f"{key}.lock", what, Deadline.after(BUILD_SECONDS), waiting):
            for left in self.directory.glob(f".{key}.*"):
                # Of one who was killed; nobody else can be at it, we have the turn.
                shutil.rmtree(left, ignore_errors=True)
            yield

    @contextmanager
    def room(self, key: str) -> Iterator[Path]:
        """Give a directory to fill, which goes unless ``publish`` has taken it. The caller has the turn."""
        work = self.directory / f".{key}.{secrets.token_hex(4)}"
        work.mkdir(mode=0o700)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def publish(self, work: Path, manifest: Manifest) -> Save:
        """Give a filled directory its name. The caller has the turn."""
        (work / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1), encoding="utf-8")
        final = self.directory / manifest.key
        if final.exists():
            shutil.rmtree(final)
        work.rename(final)
        self.collect(spare=manifest.key)
        return Save(final, manifest)

    def remove(self, key: str) -> None:
        """Remove a save; what runs on it runs on. Idempotent.

        The file of its lock stays: whoever waits for the lock has it open, and would hold what nobody sees.
        """
        shutil.rmtree(self.directory / key, ignore_errors=True)

    def all(self) -> list[Save]:
        """Return all saves, the one used last first."""
        if not self.directory.exists():
            return []
        found = [self.find(entry.name) for entry in self.directory.iterdir() if entry.is_dir()]
        return sorted((save for save in found if save is not None), key=lambda save: -save.used)

    def collect(
        self, *, most_bytes: int = MOST_BYTES, most_days: float = MOST_DAYS, spare: str | None = None
    ) -> list[Save]:
        """Remove what was not used for long, and what was used longest ago where all take too much room.

        Returns what was removed. ``spare`` is the key of one that stays.
        """
        room = most_bytes
        oldest = time.time() - most_days * 86400
        removed = []
        for save in self.all():
            room -= save.size
            if save.manifest.key != spare and (room < 0 or save.used < oldest):
                room += save.size
                self.remove(save.manifest.key)
                removed.append(save)
        return removed
