"""The user's image and what it rests on, as the headers name it; nothing is guessed.

An overlay makes everything below it part of the disk: a change of one of these files is silent corruption of
all overlays.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

from pytest_qemuvm.errors import ImageFormatError, SpecError
from pytest_qemuvm.host.images import BACKING_FORMAT, MAGIC, virtual_size

if TYPE_CHECKING:
    from pathlib import Path

_FORMATS = ("qcow2", "raw")
_MAGICS = (
    # By format: where in the file, what stands there.
    ("qcow2", 0, MAGIC),
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("qed", 0, b"QED\0"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
    ("vdi", 64, b"\x7f\x10\xda\xbe"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
)
_DATA_FILE = 0x44415441  # header extension: the name of the file that holds the guest's data
_HAS_DATA_FILE = 1 << 2  # incompatible feature
_PROTOCOL = re.compile(r"[a-z][a-z0-9+.-]*:")


class _Names(NamedTuple):
    """What a qcow2 header names."""

    backing: str | None
    backing_format: str | None
    data_file: str | None


def chain_of(path: Path, image_format: str) -> tuple[Path, ...]:
    """Return an image and the files it rests on, the upper ones first: backing images and external data.

    Raises SpecError for a file that is missing or cannot be read, ImageFormatError for one that is not what
    its format says, or that leaves it to be guessed what is below it.
    """
    found: list[Path] = []
    at, said = path, image_format
    while True:
        _check(at, said)
        if at.resolve() in [file.resolve() for file in found]:
            raise ImageFormatError(f"the disk image {path} rests on itself", path=path, format=said)
        found.append(at)
        if said != "qcow2":
            return tuple(found)
        names = _names(at)
        if names.data_file is not None:
            found.append(_beside(at, names.data_file, "keeps its data in"))
            _check_readable(found[-1])
        if names.backing is None:
            return tuple(found)
        below = _beside(at, names.backing, "rests on")
        if names.backing_format is None:
            raise ImageFormatError(
                f"{at} rests on {names.backing} without naming its format, which QEMU would guess",
                hint=f"name it once: qemu-img rebase -u -F raw -b {names.backing} {at}",
                path=at,
                format="qcow2",
            )
        at, said = below, names.backing_format


def _check(path: Path, said: str) -> None:
    if said not in _FORMATS:
        raise ImageFormatError(f"{path}: {said!r} is not a format of ours", path=path, format=said)
    start = _check_readable(path)
    virtual_size(str(path), said)
    is_ = next((name for name, at, magic in _MAGICS if start.startswith(magic, at)), None)
    if said == "raw" and is_ is not None:
        raise ImageFormatError(
            f"{path} is said to be raw, and begins like a {is_} image",
            hint=f"say format={is_!r}" if is_ in _FORMATS else f"convert it: qemu-img convert -f {is_}",
            path=path,
            format=said,
        )


def _check_readable(path: Path) -> bytes:
    """Return the first bytes of a file that is there and can be read. Raises SpecError for any other."""
    if not path.is_file():
        raise SpecError(f"no disk image at {path}", "it is a directory" if path.is_dir() else None)
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise SpecError(f"the disk image {path} cannot be read: {error}") from error


def _beside(path: Path, name: str, relation: str) -> Path:
    """Return the file that an image's header names, from the image's own directory."""
    if _PROTOCOL.match(name):
        raise ImageFormatError(
            f"{path} {relation} {name!r}, which is not a file that could be watched",
            path=path,
            format="qcow2",
        )
    return path.parent / name


def _names(path: Path) -> _Names:
    """Return which files a qcow2 image's header names.

    Raises ImageFormatError where it has external data and does not say in which file.
    """
    with path.open("rb") as file:
        start = file.read(1 << 16)
    version, offset, length = struct.unpack_from(">IQI", start, 4)
    extensions = _extensions(start, version)
    name = start[offset : offset + length].decode(errors="replace") if offset else None
    data_file = None
    if version > 2 and struct.unpack_from(">Q", start.ljust(80, b"\0"), 72)[0] & _HAS_DATA_FILE:
        data_file = extensions.get(_DATA_FILE)
        if data_file is None:
            raise ImageFormatError(
                f"{path} keeps its data in another file and does not name it",
                hint="make one image of the two: qemu-img convert",
                path=path,
                format="qcow2",
            )
    return _Names(name, extensions.get(BACKING_FORMAT), data_file)


def _extensions(start: bytes, version: int) -> dict[int, str]:
    """Return the extensions of a qcow2 header by their kind."""
    found: dict[int, str] = {}
    try:
        at = struct.unpack_from(">I", start, 100)[0] if version > 2 else 72
        while True:
            kind, size = struct.unpack_from(">II", start, at)
            if kind == 0:
                break
            found[kind] = start[at + 8 : at + 8 + size].decode(errors="replace")
            at += 8 + -(-size // 8) * 8
    except struct.error:  # the header ends early
        pass
    return found
