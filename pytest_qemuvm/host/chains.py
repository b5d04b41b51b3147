"""The user's image and what it rests on: never guessed, and at the end what it was at the beginning.

An overlay makes everything below it part of the disk: a change of one of these files is silent corruption of
all overlays. So a template knows its whole chain and compares it at the end.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import ImageFormatError, SpecError
from pytest_qemuvm.host.images import BACKING_FORMAT, MAGIC, virtual_size

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ALWAYS_HASHED = 64 * 1024**2
"""Bytes up to which a file is read again even if nothing suggests that it changed: it takes under 0.1 s."""

_FORMATS = ("qcow2", "raw")
_MAGICS = {MAGIC: "qcow2", b"KDMV": "vmdk", b"QED\0": "qed", b"vhdxfile": "vhdx", b"conectix": "vpc"}
_PROTOCOL = re.compile(r"[a-z][a-z0-9+.-]*:")


def chain_of(path: Path, image_format: str) -> tuple[Path, ...]:
    """Return an image and the images it rests on, the upper ones first.

    Raises SpecError for a file that is missing, ImageFormatError for one that is not what its format says, or
    that leaves the format of the image below it to be guessed.
    """
    found: list[Path] = []
    at, said = path, image_format
    while True:
        _check(at, said)
        if at.resolve() in [file.resolve() for file in found]:
            raise ImageFormatError(f"the disk image {path} rests on itself", path=path, format=said)
        found.append(at)
        below = _backing(at) if said == "qcow2" else None
        if below is None:
            return tuple(found)
        at, said = below


def _check(path: Path, said: str) -> None:
    if said not in _FORMATS:
        raise ImageFormatError(f"{path}: {said!r} is not a format of ours", path=path, format=said)
    if not path.is_file():
        raise SpecError(f"no disk image at {path}")
    virtual_size(str(path), said)
    with path.open("rb") as file:
        start = file.read(8)
    is_ = next((name for magic, name in _MAGICS.items() if start.startswith(magic)), None)
    if said == "raw" and is_ is not None:
        raise ImageFormatError(
            f"{path} is said to be raw, and begins like a {is_} image",
            hint=f"say format={is_!r}" if is_ in _FORMATS else f"convert it: qemu-img convert -f {is_}",
            path=path,
            format=said,
        )


def _backing(path: Path) -> tuple[Path, str] | None:
    """Return what a qcow2 image rests on and its format, as the image's header names them."""
    with path.open("rb") as file:
        start = file.read(1 << 16)
    version, offset, length = struct.unpack_from(">IQI", start, 4)
    if offset == 0:
        return None
    name = start[offset : offset + length].decode(errors="replace")
    said = _backing_format(start, version)
    if _PROTOCOL.match(name):
        raise ImageFormatError(
            f"{path} rests on {name!r}, which is not a file that could be watched", path=path, format="qcow2"
        )
    if said is None:
        raise ImageFormatError(
            f"{path} rests on {name} without naming its format, which QEMU would guess",
            hint=f"name it once: qemu-img rebase -u -F raw -b {name} {path}",
            path=path,
            format="qcow2",
        )
    return path.parent / name, said


def _backing_format(start: bytes, version: int) -> str | None:
    """Return the format of the backing image, which a header extension names; None where none does."""
    try:
        at = struct.unpack_from(">I", start, 100)[0] if version > 2 else 72
        while True:
            kind, size = struct.unpack_from(">II", start, at)
            if kind == 0:
                return None
            if kind == BACKING_FORMAT:
                return start[at + 8 : at + 8 + size].decode(errors="replace")
            at += 8 + -(-size // 8) * 8
    except struct.error:  # the header ends early
        return None


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a file was like."""

    identity: tuple[int, ...]
    """Device, inode, length, times of the last change of contents and of anything else."""
    digest: bytes

    @classmethod
    def of(cls, path: Path) -> _Seen:
        return cls(_identity(path), _digest(path))


class Watch:
    """Notes what files are like, in full, and tells later which have changed.

    Reading takes about a second a GiB. A file of over 64 MiB whose identity (device, inode, length, times of
    change) is as it was is not read a second time: nobody writes without changing the time of change, which
    only the kernel sets. Small files are always read, and so is one that was touched: only contents count.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._seen = {path: _Seen.of(path) for path in paths}

    def changed(self, *, touched_only: bool = False) -> list[Path]:
        """Return the files that are not what they were, or are gone.

        With ``touched_only`` small files, too, are read only where their identity has changed: for a look in
        between, that must not cost anything.
        """
        return [path for path, seen in self._seen.items() if not _is_same(path, seen, touched_only)]


def _is_same(path: Path, seen: _Seen, touched_only: bool) -> bool:  # noqa: FBT001  # the one caller passes it on
    try:
        identity = _identity(path)
        if identity == seen.identity and (touched_only or path.stat().st_size > ALWAYS_HASHED):
            return True
        return _digest(path) == seen.digest
    except OSError:
        return False


def _identity(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
