"""Image files, written without a child process.

An empty qcow2 is a header, a refcount table, one refcount block and an empty L1 table. Writing these takes
well under a millisecond, ``qemu-img create`` takes four. The format is QEMU's ``docs/interop/qcow2.txt``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import ImageFormatError, QemuVMError, SpecError
from pytest_qemuvm.host.memory import copy_data

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from pytest_qemuvm.plan.model import ImagePlan

MAGIC = b"QFI\xfb"
_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")  # version 3, 104 bytes
BACKING_FORMAT = 0xE2792ACA  # header extension: the backing file's format, so that it is never probed
_LONGEST_BACKING = 1023
_QEMU_IMG_SECONDS = 30.0
_SIZE_AT = 24
"""Where a header has the virtual size; what encryption there is and the entries of the L1 table follow."""
_LOCKS_FROM, _LOCKS_LENGTH = 100, 200
"""The bytes of an image whose locks say what its openers do and suffer (QEMU's ``block/file-posix.c``)."""


def make_image(plan: ImagePlan, path: Path) -> None:
    """Make an image and check that it is what was asked for; on failure leave no file behind.

    Raises SpecError for a backing image that is not what its format says, QemuVMError where the file cannot
    be written.
    """
    if plan.copy_of is not None:
        _copy(plan.copy_of, path)
        return
    size = plan.size
    if plan.backing is not None:
        least = virtual_size(plan.backing, plan.backing_format or "raw")
        size = least if size is None else size
        if size < least:
            raise SpecError(f"{size} bytes are too few for an overlay on {plan.backing}, which has {least}")
    assert size is not None
    content, length = b"", size
    if plan.format == "qcow2":
        content, length = qcow2_header(size, plan.backing, plan.backing_format), _layout(size)[1]
    try:
        file = path.open("xb")
    except OSError as error:  # also where there is a file already: it is not ours to remove
        raise QemuVMError(f"the disk image {path} cannot be made: {error}") from error
    try:
        with file:
            file.write(content)
            file.truncate(length)
    except OSError as error:
        path.unlink()
        raise QemuVMError(f"the disk image {path} cannot be written: {error}") from error
    made = virtual_size(str(path), plan.format)
    if made != size:
        path.unlink()
        raise QemuVMError(f"the disk image {path} came out with {made} bytes instead of {size}")


def _copy(source: str, path: Path) -> None:
    """Copy an image; holes stay holes. Raises QemuVMError."""
    try:
        original = open(source, "rb")  # noqa: PTH123, SIM115  # the path is a plan's string
        with original, path.open("xb") as file:  # a file that is there already is not ours to remove
            try:
                copy_data(original.fileno(), file.fileno())
            except OSError:
                path.unlink()
                raise
    except OSError as error:
        raise QemuVMError(f"the disk image {source} cannot be copied to {path}: {error}") from error


def _layout(size: int) -> tuple[int, int]:
    """Return the entries of the L1 table and the file's length for a virtual size."""
    per_l1_entry = _CLUSTER * (_CLUSTER // 8)
    entries = max(1, -(-size // per_l1_entry))
    l1_clusters = -(-entries * 8 // _CLUSTER)
    return entries, (3 + l1_clusters) * _CLUSTER


def qcow2_header(size: int, backing: str | None = None, backing_format: str | None = None) -> bytes:
    """Return the start of an empty qcow2 image; the L1 table that follows it is all zeros.

    Cluster 0 holds the header, 1 the refcount table, 2 the refcount block, 3 and on the L1 table.
    """
    entries, length = _layout(size)
    extensions = b""
    name = b""
    if backing is not None:
        name = backing.encode()
        if len(name) > _LONGEST_BACKING:
            raise SpecError(f"the path of the backing image is longer than {_LONGEST_BACKING} bytes")
        word = (backing_format or "raw").encode()
        extensions += struct.pack(">II", BACKING_FORMAT, len(word)) + word.ljust(
            -(-len(word) // 8) * 8, b"\0"
        )
    extensions += struct.pack(">II", 0, 0)
    name_at = _HEADER.size + len(extensions) if name else 0
    header = _HEADER.pack(
        MAGIC,
        3,  # version
        name_at,
        len(name),
        _CLUSTER_BITS,
        size,
        0,  # no encryption
        entries,
        3 * _CLUSTER,  # L1 table
        _CLUSTER,  # refcount table
        1,  # its clusters
        0,  # internal snapshots
        0,  # where they are
        0,  # incompatible features
        0,  # compatible features
        0,  # features that are cleared by who does not know them
        4,  # refcounts of 1 << 4 bits
        _HEADER.size,
    )
    used = length // _CLUSTER
    return b"".join(
        (
            (header + extensions + name).ljust(_CLUSTER, b"\0"),
            struct.pack(">Q", 2 * _CLUSTER).ljust(_CLUSTER, b"\0"),
            struct.pack(f">{used}H", *([1] * used)),
        )
    )


def grow_image(path: Path, image_format: str, size: int) -> None:
    """Make an image larger; ``size`` in bytes. Raises QemuVMError, with what qemu-img said if asked.

    Most qcow2 images grow by two numbers in their header. What needs more than that (a table that has to
    move, snapshots that know the old size) is qemu-img's business.
    """
    try:
        with path.open("r+b") as file:
            if not _lock_whole(file.fileno()):
                raise QemuVMError(
                    f"the disk image {path} cannot be made larger: another process has it open",
                    hint="detach it there first",
                )
            if image_format == "raw":
                file.truncate(size)
                return
            if image_format == "qcow2" and _grown_in_place(file, size):
                return
    except OSError as error:
        raise QemuVMError(f"the disk image {path} cannot be made larger: {error}") from error
    _grow_by_qemu_img(path, image_format, size)


def _grown_in_place(file: BinaryIO, size: int) -> bool:
    """Give an image another size where its L1 table has room for it; return whether it had."""
    start = file.read(_HEADER.size)
    if len(start) < _HEADER.size or not start.startswith(MAGIC):
        return False
    fields = _HEADER.unpack(start)
    version, bits, encrypted, entries, l1_at = fields[1], fields[4], fields[6], fields[7], fields[8]
    snapshots, incompatible = fields[11], fields[13]
    if version != 3 or bits != _CLUSTER_BITS or encrypted or snapshots or incompatible:
        return False
    wanted, allocated = _layout(size)[0], -(-entries * 8 // _CLUSTER) * _CLUSTER
    file.seek(l1_at + entries * 8)
    # What lies behind the table in its last cluster is nobody else's, but need not be zeros.
    behind = file.read(max(0, wanted - entries) * 8)
    if wanted * 8 > allocated or any(behind):
        return False
    # Both in one write, that nobody sees a size without its table.
    file.seek(_SIZE_AT)
    file.write(struct.pack(">QII", size, 0, max(wanted, entries)))
    return True


def _lock_whole(descriptor: int) -> bool:
    """Take the locks by which QEMU guards an image, all of them; return whether nobody else has one."""
    import fcntl  # noqa: PLC0415  # seldom needed

    # A struct flock: l_type, l_whence, l_start, l_len, l_pid.
    whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, _LOCKS_FROM, _LOCKS_LENGTH, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, whole)
    except BlockingIOError:
        return False
    return True


def _grow_by_qemu_img(path: Path, image_format: str, size: int) -> None:
    from pytest_qemuvm.host.bounded import run_bounded  # noqa: PLC0415  # seldom needed

    argv = ["qemu-img", "resize", "-q", "-f", image_format, str(path), str(size)]
    try:
        outcome = run_bounded(argv, seconds=_QEMU_IMG_SECONDS)
    except OSError as error:
        raise QemuVMError(f"qemu-img cannot be started: {error}", hint="run `qemuvm setup`") from error
    if not outcome.ok:
        raise QemuVMError(f"the disk image {path} cannot be made larger", outcome.evidence())


def virtual_size(path: str, image_format: str) -> int:
    """Return the size in bytes that a guest would see.

    Raises SpecError where it cannot be read, ImageFormatError where it is not of that format.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # the path is a plan's string
            start = file.read(32)
            length = file.seek(0, 2)
    except OSError as error:
        raise SpecError(f"the disk image {path} cannot be read: {error}") from error
    if image_format == "raw":
        return -(-length // 512) * 512
    if len(start) < 32 or not start.startswith(MAGIC):
        raise ImageFormatError(
            f"{path} is not a qcow2 image",
            hint="say format='raw' if it is a raw image",
            path=path,
            format=image_format,
        )
    return int(struct.unpack_from(">Q", start, 24)[0])
